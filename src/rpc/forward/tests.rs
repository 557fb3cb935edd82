use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cubecast_sdk::proto::v1::ErrorReason;
use tokio::time::Instant;
use tonic::Status;

use super::{Answered, Ask, Attempt, Failed, Failure, Fate, Places, run};
use crate::cluster::{Cluster, Member, Options};
use crate::router::{Aim, Leader, Router};
use crate::rpc::status::{Fault, reason};
use crate::types::{Dimension, PeerId, Term, Vertex};

type Outcome = Result<&'static str, Failure>;

/// Answers in the order of the script and remembers who was asked. After the script everybody says that it does not lead.
struct Script {
    outcomes: Mutex<VecDeque<Outcome>>,
    asked: Mutex<Vec<Option<u16>>>,
}

impl Script {
    fn new(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        Self {
            outcomes: Mutex::new(outcomes.into_iter().collect()),
            asked: Mutex::default(),
        }
    }

    fn play(&self, who: Option<u16>) -> Outcome {
        self.asked.lock().unwrap().push(who);
        self.outcomes
            .lock()
            .unwrap()
            .pop_front()
            .unwrap_or(Err(Failure::NotLeader(None)))
    }

    fn asked(&self) -> Vec<Option<u16>> {
        self.asked.lock().unwrap().clone()
    }
}

impl Attempt for Script {
    type Answer = &'static str;

    async fn here(&self) -> Outcome {
        self.play(None)
    }

    async fn there(&self, peer: PeerId) -> Outcome {
        self.play(Some(peer.0))
    }

    async fn pause(&self, delay: Duration) {
        tokio::time::sleep(delay).await;
    }
}

fn vertex() -> Vertex {
    "100".parse().unwrap()
}

fn router() -> Router {
    let dimension = Dimension::new(3).unwrap();
    let members = dimension
        .vertices()
        .map(|vertex| Member {
            peer: PeerId(vertex.index()),
            vertex,
            address: String::new(),
        })
        .collect();
    Router::new(
        Cluster::new(Options {
            this: PeerId(5),
            members,
            dimension,
            replication_factor: 4,
        })
        .unwrap(),
        Arc::new(|peer| peer == PeerId(6)),
        Arc::new(|_| None),
    )
}

fn ask(fate: Fate) -> Ask {
    let deadline = Instant::now() + Duration::from_millis(300);
    Ask {
        vertex: vertex(),
        aim: Aim::Leader,
        fate,
        deadline,
        forwarded_by: None,
    }
}

async fn play(
    router: &Router,
    ask: &Ask,
    script: &Script,
) -> Result<Answered<&'static str>, Failed> {
    let places = Places {
        this: PeerId(5),
        owner: PeerId(4),
        quorum: 2,
        replicas: 4,
    };
    run(router, places, ask, script).await
}

fn why(result: Result<Answered<&'static str>, Failed>) -> ErrorReason {
    reason(&result.unwrap_err().status).unwrap()
}

#[tokio::test]
async fn owner_answers_at_once_and_is_remembered() {
    let (router, script) = (router(), Script::new([Ok("done")]));
    let answered = play(&router, &ask(Fate::Single), &script).await.unwrap();
    assert_eq!((answered.answer, answered.peer), ("done", PeerId(4)));
    assert_eq!(router.leader(vertex()).unwrap().peer, PeerId(4));
    assert_eq!(script.asked(), [Some(4)]);
}

#[tokio::test]
async fn hint_is_followed_before_anybody_else_is_asked() {
    let hint = Leader {
        peer: PeerId(0),
        term: Term(3),
    };
    let (router, script) = (
        router(),
        Script::new([Err(Failure::NotLeader(Some(hint))), Ok("done")]),
    );
    let answered = play(&router, &ask(Fate::Single), &script).await.unwrap();
    assert_eq!(answered.peer, PeerId(0));
    assert_eq!(script.asked(), [Some(4), Some(0)]);
}

#[tokio::test]
async fn own_replica_answers_when_the_owner_cannot_be_reached() {
    let (router, script) = (router(), Script::new([Err(Failure::Unreached), Ok("done")]));
    let answered = play(&router, &ask(Fate::Single), &script).await.unwrap();
    assert_eq!(
        (answered.peer, answered.is_owner_unreached),
        (PeerId(5), true)
    );
    assert_eq!(script.asked(), [Some(4), None]);
}

#[tokio::test]
async fn shard_between_leaders_makes_the_call_wait() {
    let nobody = || Err(Failure::NotLeader(None));
    let (router, script) = (
        router(),
        Script::new((0..9).map(|_| nobody()).chain([Ok("done")])),
    );
    let begin = Instant::now();
    let answered = play(&router, &ask(Fate::Single), &script).await.unwrap();
    assert_eq!(answered.peer, PeerId(5));
    assert!(
        begin.elapsed() >= Duration::from_millis(20),
        "two rounds were waited for"
    );
}

#[tokio::test]
async fn deadline_without_a_leader_says_so() {
    let (router, script) = (router(), Script::new([]));
    let begin = Instant::now();
    assert_eq!(
        why(play(&router, &ask(Fate::Single), &script).await),
        ErrorReason::NoLeader
    );
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert!(
        script.asked().len() < 140,
        "it does not ask without a pause"
    );
}

#[tokio::test]
async fn deadline_already_past_asks_nobody() {
    let (router, script) = (router(), Script::new([]));
    let late = Ask {
        deadline: Instant::now(),
        ..ask(Fate::Repeatable)
    };
    assert_eq!(
        why(play(&router, &late, &script).await),
        ErrorReason::DeadlineExceeded
    );
    assert_eq!(script.asked(), []);
}

#[tokio::test]
async fn single_write_of_unknown_fate_is_not_repeated() {
    let (router, script) = (router(), Script::new([Err(Failure::Unknown), Ok("twice")]));
    assert_eq!(
        why(play(&router, &ask(Fate::Single), &script).await),
        ErrorReason::OutcomeUnknown
    );
    assert_eq!(script.asked(), [Some(4)]);
}

#[tokio::test]
async fn repeatable_write_of_unknown_fate_is_repeated() {
    let (router, script) = (router(), Script::new([Err(Failure::Unknown), Ok("once")]));
    assert_eq!(
        play(&router, &ask(Fate::Repeatable), &script)
            .await
            .unwrap()
            .answer,
        "once"
    );
}

#[tokio::test]
async fn repeatable_write_still_unknown_at_the_deadline_is_unknown() {
    let (router, script) = (router(), Script::new([Err(Failure::Unknown)]));
    assert_eq!(
        why(play(&router, &ask(Fate::Repeatable), &script).await),
        ErrorReason::OutcomeUnknown
    );
}

fn no_quorum() -> Outcome {
    let fault = Fault::new(ErrorReason::NoQuorum, "said by a replica").with("reachable", 1);
    Err(Failure::NoQuorum(fault.into_status()))
}

fn unreached() -> Outcome {
    Err(Failure::Unreached)
}

// G6: told at once. Who votes is known to the replicas: neither is asked whether it is a standby.
#[tokio::test(start_paused = true)]
async fn call_ends_after_two_rounds_when_every_replica_knows_of_no_majority() {
    let (router, script) = (router(), Script::new((0..50).map(|_| no_quorum())));
    let begin = Instant::now();
    let failed = play(&router, &ask(Fate::Single), &script)
        .await
        .unwrap_err();
    assert_eq!(reason(&failed.status), Some(ErrorReason::NoQuorum));
    assert_eq!(failed.status.message(), "said by a replica");
    assert_eq!(script.asked().len(), 8);
    assert!(begin.elapsed() < Duration::from_millis(20));
}

#[tokio::test(start_paused = true)]
async fn replica_that_may_find_a_leader_keeps_up_hope() {
    let round = || {
        [
            no_quorum(),
            Err(Failure::NotLeader(None)),
            unreached(),
            no_quorum(),
        ]
    };
    let rounds = (0..4).flat_map(|_| round()).chain([Ok("done")]);
    let (router, script) = (router(), Script::new(rounds));
    let answered = play(&router, &ask(Fate::Single), &script).await.unwrap();
    assert_eq!(answered.answer, "done");
}

// One that is led by a peer without a majority has only not heard of that yet.
#[tokio::test(start_paused = true)]
async fn followers_of_a_leader_without_a_majority_are_no_hope() {
    let leader = Leader {
        peer: PeerId(4),
        term: Term(3),
    };
    let round = || {
        [
            no_quorum(),
            Err(Failure::NotLeader(Some(leader))),
            unreached(),
            unreached(),
        ]
    };
    let (router, script) = (router(), Script::new((0..50).flat_map(|_| round())));
    let result = play(&router, &ask(Fate::Single), &script).await;
    assert_eq!(why(result), ErrorReason::NoQuorum);
    assert_eq!(script.asked().len(), 16);
}

#[tokio::test(start_paused = true)]
async fn too_few_replicas_end_the_call_whatever_they_hope() {
    // The one that is reached does not lead; of the three others nothing is heard.
    let round = || {
        [
            unreached(),
            Err(Failure::NotLeader(None)),
            unreached(),
            unreached(),
        ]
    };
    let (router, script) = (router(), Script::new((0..50).flat_map(|_| round())));
    let begin = Instant::now();
    let result = play(&router, &ask(Fate::Single), &script).await;
    assert_eq!(why(result), ErrorReason::NoQuorum);
    // Those that are not known to be gone may only be starting.
    assert_eq!(script.asked().len(), 16);
    assert!(begin.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn lost_majority_does_not_make_a_write_of_unknown_fate_a_failure() {
    let first = [Err(Failure::Unknown), no_quorum(), no_quorum(), no_quorum()];
    let rest = (0..50).map(|_| no_quorum());
    let script = Script::new(first.into_iter().chain(rest));
    let begin = Instant::now();
    let result = play(&router(), &ask(Fate::Repeatable), &script).await;
    assert_eq!(why(result), ErrorReason::OutcomeUnknown);
    assert!(begin.elapsed() < Duration::from_millis(100), "at once");
}

#[tokio::test]
async fn refusal_is_final_and_names_who_refused() {
    let refusal: Status = Fault::new(ErrorReason::TopicNotFound, "no").into_status();
    let (router, script) = (
        router(),
        Script::new([Err(Failure::Final(refusal)), Ok("no")]),
    );
    let failed = play(&router, &ask(Fate::Repeatable), &script)
        .await
        .unwrap_err();
    assert_eq!(
        (reason(&failed.status), failed.peer),
        (Some(ErrorReason::TopicNotFound), Some(PeerId(4)))
    );
}

#[tokio::test]
async fn forwarded_call_is_never_forwarded_again() {
    let hint = Leader {
        peer: PeerId(0),
        term: Term(3),
    };
    for outcome in [
        Failure::NotLeader(Some(hint)),
        Failure::NotLeader(None),
        Failure::Unreached,
    ] {
        let (router, script) = (router(), Script::new([Err(outcome)]));
        let forwarded = Ask {
            forwarded_by: Some(PeerId(3)),
            ..ask(Fate::Repeatable)
        };
        assert_eq!(
            why(play(&router, &forwarded, &script).await),
            ErrorReason::NotLeader
        );
        assert_eq!(script.asked(), [None]);
    }
}

#[tokio::test]
async fn read_of_any_replica_needs_only_one() {
    let (router, script) = (
        router(),
        Script::new([Err(Failure::Unreached), Err(Failure::Unreached), Ok("read")]),
    );
    let any = Ask {
        aim: Aim::Replica,
        ..ask(Fate::Repeatable)
    };
    assert_eq!(play(&router, &any, &script).await.unwrap().answer, "read");
    assert_eq!(script.asked(), [None, Some(4), Some(0)]);
}

#[tokio::test]
async fn refusal_after_an_attempt_of_unknown_fate_is_no_definite_failure() {
    let overloaded = || {
        Err(Failure::Final(
            Fault::new(ErrorReason::Overloaded, "x").into_status(),
        ))
    };
    let script = Script::new([Err(Failure::Unknown), overloaded()]);
    assert_eq!(
        why(play(&router(), &ask(Fate::Repeatable), &script).await),
        ErrorReason::OutcomeUnknown
    );
    let script = Script::new([Err(Failure::Unknown), overloaded()]);
    assert_eq!(
        why(play(&router(), &ask(Fate::Read), &script).await),
        ErrorReason::Overloaded
    );
}

fn damaged() -> Outcome {
    let fault = Fault::new(ErrorReason::ReplicaDamaged, "x");
    Err(Failure::Damaged(fault.into_status()))
}

#[tokio::test]
async fn damaged_replica_is_passed_over() {
    let (router, script) = (router(), Script::new([damaged(), Ok("done")]));
    let answered = play(&router, &ask(Fate::Read), &script).await.unwrap();
    assert_eq!(answered.answer, "done");
    assert_eq!(script.asked(), [Some(4), None]);
}

#[tokio::test]
async fn data_is_lost_only_when_every_replica_is_damaged() {
    let (router, script) = (router(), Script::new([(); 4].map(|()| damaged())));
    let result = play(&router, &ask(Fate::Read), &script).await;
    assert_eq!(why(result), ErrorReason::DataLost);
    assert_eq!(script.asked().len(), 4);
    let one_is_away = [damaged(), damaged(), damaged(), Err(Failure::Unreached)];
    let script = Script::new(one_is_away);
    let result = play(&router, &ask(Fate::Read), &script).await;
    assert_ne!(why(result), ErrorReason::DataLost);
}

#[tokio::test]
async fn damage_does_not_hide_a_write_of_unknown_fate() {
    let first = [Err(Failure::Unknown), damaged(), damaged(), damaged()];
    let outcomes = first.into_iter().chain([(); 8].map(|()| damaged()));
    let (router, script) = (router(), Script::new(outcomes));
    let result = play(&router, &ask(Fate::Repeatable), &script).await;
    assert_eq!(why(result), ErrorReason::OutcomeUnknown);
}
