//! What is heard, and what follows: two or three states that hear each other in imagined time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::link::LinkState::{Dead, Silent, Unknown, Up};
use crate::link::state::{Effects, Rhythm, State};
use crate::link::wire::Table;
use crate::types::{Dimension, PeerId, Term, Vertex};

const A: PeerId = PeerId(0);
const B: PeerId = PeerId(1);
const C: PeerId = PeerId(2);

fn state(this: PeerId, sequence: u64, now: Instant) -> State {
    let dimension = Dimension::new(2).unwrap();
    let members = [A, B, C].map(|peer| (peer, Vertex::new(peer.0, dimension).unwrap()));
    State::new(this, members, Rhythm::default(), sequence, now)
}

fn tables(state: &State) -> Vec<Table> {
    state.tables().cloned().collect()
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Both hear each other until both links are up.
fn greet((a, name_a): (&mut State, PeerId), (b, name_b): (&mut State, PeerId), now: Instant) {
    for _ in 0..2 {
        b.hear(name_a, tables(a), now);
        a.hear(name_b, tables(b), now);
    }
}

fn pair(now: Instant) -> (State, State) {
    let (mut a, mut b) = (state(A, 1, now), state(B, 1, now));
    greet((&mut a, A), (&mut b, B), now);
    (a, b)
}

#[test]
fn link_is_up_when_each_end_says_that_it_hears_the_other() {
    let now = Instant::now();
    let (mut a, mut b) = (state(A, 1, now), state(B, 1, now));
    let first = b.hear(A, tables(&a), now);
    assert!(first.is_own_changed, "A is told at once");
    assert_eq!(b.map().state(A), Unknown, "A does not hear B yet");
    a.hear(B, tables(&b), now);
    assert_eq!(a.map().state(B), Up);
    let last = b.hear(A, tables(&a), now);
    assert_eq!(last.turned, [(A, Unknown, Up)]);
    assert!(b.map().is_up(A, B));
    let again = b.hear(A, tables(&a), now);
    assert!(
        again.map.is_none() && !again.has_news && !again.is_own_changed,
        "nothing new"
    );
}

#[test]
fn silence_is_found_after_the_limit_and_ends_with_the_next_heartbeat() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    assert!(a.check(now + ms(799)).turned.is_empty());
    assert_eq!(a.next_check(), Some(now + ms(800)));
    let found = a.check(now + ms(800));
    assert_eq!(found.turned, [(B, Up, Silent), (C, Unknown, Silent)]);
    assert!(found.is_own_changed);
    assert!(a.map().is_gone(B));
    assert_eq!(a.next_check(), None);
    a.hear(B, tables(&b), now + ms(900));
    assert_eq!(a.map().state(B), Up);
}

#[test]
fn one_way_cut_takes_the_link_down_at_both_ends() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    // B hears nothing any more, A still hears B.
    b.check(now + ms(800));
    let told = a.hear(B, tables(&b), now + ms(801));
    assert_eq!(told.turned, [(B, Up, Silent)]);
    assert!(a.map().is_gone(B) && !a.map().is_up(A, B));
    b.hear(A, tables(&a), now + ms(900));
    let healed = a.hear(B, tables(&b), now + ms(901));
    assert_eq!(healed.turned, [(B, Silent, Up)]);
}

#[test]
fn refused_peer_is_dead_and_its_own_word_counts_no_more() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let mut c = state(C, 1, now);
    greet((&mut a, A), (&mut c, C), now);
    greet((&mut b, B), (&mut c, C), now);
    a.hear(C, tables(&c), now);
    assert!(a.map().is_up(B, C));
    a.lose(B, now);
    assert_eq!(a.map().state(B), Unknown, "a moment of doubt");
    assert!(a.map().is_up(A, B), "the others are not told yet");
    a.bury(B, now);
    assert_eq!(a.map().state(B), Dead);
    assert!(!a.map().is_gone(B), "C still says that it hears B");
    c.bury(B, now);
    let news = a.hear(C, tables(&c), now);
    assert!(news.has_news, "news of others is passed on");
    assert!(a.map().is_gone(B));
}

#[test]
fn connection_that_breaks_and_comes_back_is_no_death() {
    let now = Instant::now();
    let (mut a, b) = pair(now);
    let table = tables(&a);
    a.lose(B, now + ms(5));
    a.hear(B, tables(&b), now + ms(8));
    assert_eq!(a.map().state(B), Up);
    assert_eq!(tables(&a), table, "the others never heard of it");
    a.lose(B, now + ms(10));
    let gone = a.check(now + ms(808));
    assert_eq!(gone.turned.first(), Some(&(B, Unknown, Silent)));
}

#[test]
fn restarted_peer_is_believed_over_its_earlier_life() {
    let now = Instant::now();
    let (mut a, _) = pair(now);
    let mut again = state(B, 1_000, now);
    a.lose(B, now);
    a.hear(B, tables(&again), now);
    assert_eq!(
        a.map().state(B),
        Unknown,
        "the new life does not hear A yet"
    );
    again.hear(A, tables(&a), now);
    a.hear(B, tables(&again), now);
    assert_eq!(a.map().state(B), Up);
    // One whose clock went back learns from the others which of its words they have.
    let mut earlier = state(B, 1, now);
    earlier.hear(A, tables(&a), now);
    let own = tables(&earlier).into_iter().find(|table| table.peer == B);
    assert!(own.unwrap().sequence > 1_000);
}

/// How often the map of A changes its mind about B within ten seconds, B being silent for `off` after each time it was heard for `on`.
fn turns(on: Duration, off: Duration) -> usize {
    let begun = Instant::now();
    let (mut a, b) = pair(begun);
    let (mut turns, mut now) = (0, begun);
    while now < begun + ms(10_000) {
        let mut count =
            |effects: Effects| turns += effects.turned.iter().filter(|t| t.0 == B).count();
        let end = now + on;
        while now < end {
            count(a.hear(B, tables(&b), now));
            now += ms(100);
        }
        now += off;
        count(a.check(now));
    }
    turns
}

#[test]
fn flapping_link_is_soon_left_down() {
    // Without damping it would go up and down nine times each.
    let flapping = turns(ms(200), ms(900));
    assert_eq!(flapping, 5, "down, up, down, up, and down for good");
    let steady = turns(ms(2_000), ms(0));
    assert_eq!(steady, 0);
    // One that is steady for a second is let up again.
    let begun = Instant::now();
    let (mut a, b) = pair(begun);
    let mut now = begun;
    for _ in 0..3 {
        now += ms(900);
        a.check(now);
        a.hear(B, tables(&b), now);
    }
    assert_eq!(a.map().state(B), Silent);
    for _ in 0..9 {
        now += ms(100);
        a.hear(B, tables(&b), now);
        assert_eq!(a.map().state(B), Silent);
    }
    a.hear(B, tables(&b), now + ms(100));
    assert_eq!(a.map().state(B), Up);
}

#[test]
fn peer_that_was_held_up_itself_gives_the_others_time() {
    let now = Instant::now();
    let (mut a, _) = pair(now);
    let late = now + ms(3_000);
    a.forgive(late);
    assert!(a.check(late).turned.is_empty());
    assert_eq!(a.next_check(), Some(late + ms(250)));
    assert!(!a.check(late + ms(250)).turned.is_empty());
}

#[test]
fn word_of_a_stranger_is_not_passed_on() {
    let now = Instant::now();
    let (mut a, _) = pair(now);
    let stranger = Table {
        leads: Arc::new(BTreeMap::from([(2, Term(99))])),
        ..Table::new(PeerId(77), 5)
    };
    let heard = a.hear(B, vec![stranger], now);
    assert!(heard.map.is_none() && !heard.has_news && !heard.is_own_changed);
    assert_eq!(a.tables().count(), 2);
    assert_eq!(a.map().leader(vertex(2)), None);
}

fn vertex(index: u16) -> Vertex {
    Vertex::new(index, Dimension::new(2).unwrap()).unwrap()
}

// What only the leader's own replicas would know otherwise reaches everybody, through others too.
#[test]
fn leader_is_known_to_all_and_the_greatest_term_counts() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    let mut c = state(C, 1, now);
    greet((&mut b, B), (&mut c, C), now);
    let told = c.lead(vertex(1), Some(Term(5)));
    assert!(told.is_own_changed && told.map.is_some());
    let again = c.lead(vertex(1), Some(Term(5)));
    assert!(!again.is_own_changed && again.map.is_none(), "nothing new");
    b.hear(C, tables(&c), now);
    let heard = a.hear(B, tables(&b), now);
    assert!(heard.has_news && heard.map.is_some());
    assert_eq!(a.map().leader(vertex(1)), Some((C, Term(5))));
    assert_eq!(a.map().leader(vertex(0)), None);
    // C does not know yet that it was replaced.
    b.lead(vertex(1), Some(Term(6)));
    a.hear(B, tables(&b), now);
    assert_eq!(a.map().leader(vertex(1)), Some((B, Term(6))));
    b.lead(vertex(1), None);
    c.lead(vertex(1), None);
    b.hear(C, tables(&c), now);
    a.hear(B, tables(&b), now);
    assert_eq!(a.map().leader(vertex(1)), None);
}

#[test]
fn leader_that_is_gone_leads_nothing() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    a.lead(vertex(1), Some(Term(4)));
    b.lead(vertex(1), Some(Term(5)));
    a.hear(B, tables(&b), now);
    assert_eq!(a.map().leader(vertex(1)), Some((B, Term(5))));
    a.bury(B, now);
    assert_eq!(a.map().leader(vertex(1)), None, "an older one neither");
}

#[test]
fn peer_that_is_about_to_stop_says_so_once() {
    let now = Instant::now();
    let (mut a, mut b) = pair(now);
    assert!(b.leave().is_own_changed);
    assert!(!b.leave().is_own_changed);
    let heard = a.hear(B, tables(&b), now);
    assert!(heard.has_news && heard.map.is_some());
    assert_eq!(a.map().state(B), Up, "calls that are for it still go there");
}
