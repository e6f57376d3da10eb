//! What the host and its operator do to a broker: too few connections for all who come, a second broker on the same data,
//! a kernel without io_uring, or that lets it lock too little memory.

use std::time::Duration;

use crate::broker::Broker;
use crate::faults::Faults;
use crate::scene::Scene;
use crate::wire::Wire;

/// CPU time that waiting for free connections may cost in two seconds.
const CPU_MAX: Duration = Duration::from_millis(500);

#[test]
fn who_finds_no_free_connection_waits_and_costs_nothing() {
    let mut scene = Scene::open("connections_per_shard_max = 64");
    let crowd: Vec<Wire> = (0..300).map(|_| Wire::connect(scene.broker.plain)).collect();
    scene.broker.wait("for every connection to be taken", |broker| broker.metric("plaza_accept_errors_total", "") > 0);
    let before = scene.broker.cpu();
    std::thread::sleep(Duration::from_secs(2));
    let cost = scene.broker.cpu() - before;
    scene.check("111 no connection is free", cost < CPU_MAX, &format!("waiting took {cost:?} of CPU time"));
    scene.undisturbed("111 no connection is free");
    drop(crowd);
    // Whoever comes when they have gone is let in.
    drop(Wire::available(&scene.broker, "anna", "after"));
    scene.undisturbed("111 connections are free again");
    scene.close();
}

#[test]
fn a_second_broker_on_the_same_data_does_not_start() {
    let mut scene = Scene::open("");
    let second = scene.broker.try_cli(&[]);
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    scene.check("120 a second broker", second.status.code() == Some(69), &format!("{:?}: {said}", second.status));
    scene.note("120 a second broker", &said, "another process has …store open");
    scene.close();
}

#[test]
fn a_kernel_without_io_uring_is_told_of_in_a_line() {
    let faults = Faults::new();
    let mut broker = Broker::start_with("", faults.variables());
    broker.kill();
    faults.begin("noring");
    let (status, said) = broker.try_start_again().expect_err("122 no io_uring");
    assert_eq!(status, Some(78), "122 no io_uring: {said}");
    assert!(said.contains("io_uring"), "122 no io_uring: {said}");
    faults.end("noring");
    broker.try_start_again().expect("122 io_uring again");
    broker.stop();
}

#[test]
fn a_host_that_lets_too_little_memory_be_locked_is_told_what_to_do() {
    let mut broker = Broker::start("");
    broker.kill();
    let refused = broker.start_limited("--memlock=65536:65536");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(78), "112 too little locked memory: {said}");
    let told = said.lines().find(|line| line.starts_with("plaza: ")).unwrap_or_default();
    for part in ["locked memory", "65536", "ulimit -l", "LimitMEMLOCK="] {
        assert!(told.contains(part), "112 too little locked memory: no {part} in {said}");
    }
    broker.try_start_again().expect("112 enough locked memory");
    broker.stop();
}
