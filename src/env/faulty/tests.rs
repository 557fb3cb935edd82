use super::*;

#[test]
fn unsynced_bytes_and_names_are_lost_with_the_power() {
    let disk = FaultyDisk::new(1);
    let (directory, path) = (Path::new("/d"), Path::new("/d/x"));
    disk.create_directory(directory).unwrap();
    let file = disk.create(path).unwrap();
    file.write_all_at(0, b"kept").unwrap();
    file.sync_all().unwrap();
    disk.sync_directory(directory).unwrap();
    file.write_all_at(0, b"lost").unwrap();
    disk.create(Path::new("/d/y")).unwrap();
    disk.reboot(Survival::Nothing);
    assert_eq!(disk.contents(path).unwrap(), b"kept");
    assert_eq!(disk.list(directory).unwrap(), ["x"]);
    assert!(file.sync_data().is_err(), "a handle of a former life");
}

#[test]
fn failed_sync_loses_what_it_should_have_kept() {
    let disk = FaultyDisk::new(1);
    let path = Path::new("/d/x");
    disk.set_contents(path, b"old");
    let file = disk.open(path).unwrap();
    file.write_all_at(0, b"new").unwrap();
    disk.fail_sync_at(0);
    assert!(file.sync_data().is_err());
    assert_eq!(disk.contents(path).unwrap(), b"new", "read from memory");
    disk.reboot(Survival::Nothing);
    assert_eq!(disk.contents(path).unwrap(), b"old");
    disk.limit(3);
    let file = disk.open(path).unwrap();
    assert!(matches!(
        file.write_all_at(1, b"abc"),
        Err(Error::Full { .. })
    ));
    disk.cut_power_at(disk.operations());
    assert!(file.sync_data().is_err());
}
