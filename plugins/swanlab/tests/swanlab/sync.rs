//! Sending what a run left on disk.

use super::*;
use apus_sdk::Level;
use apus_swanlab::{SyncRequest, sync};

/// Sends these runs to a server.
pub fn send(server: &Server, dirs: &[PathBuf]) -> apus_sdk::Result<Vec<String>> {
    let what = SyncRequest {
        dirs: dirs.to_vec(),
        host: Some(server.url.clone()),
        key: Some(KEY.to_owned().into()),
        ..SyncRequest::default()
    };
    let mut said = Vec::new();
    sync(&what, &mut |line| said.push(line.to_owned()))?;
    Ok(said)
}

/// Sends runs whose sender was left alone a moment ago, as the end of its process would have ended it.
pub fn send_later(server: &Server, dirs: &[PathBuf]) {
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match send(server, dirs) {
            Err(error) if error.to_string().contains("being sent") => {
                assert!(std::time::Instant::now() < until, "{error}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            sent => return drop(sent.unwrap()),
        }
    }
}

fn offline(dir: &Path, end: Option<&EndState>) -> PathBuf {
    let mut tracker = tracker_at("http://127.0.0.1:9", json!({"mode": "offline"}));
    tracker.start(&info(dir)).unwrap();
    log(&mut *tracker, 1..=40);
    for line in 0..3 {
        tracker.line(Level::Info, &format!("line {line}")).unwrap();
    }
    tracker.text(40, "prompt", &"long ".repeat(20_000)).unwrap();
    if let Some(end) = end {
        tracker.finish(end).unwrap();
    }
    folders(dir).remove(0)
}

#[test]
fn twice_sends_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let run = offline(dir.path(), Some(&EndState::Crashed("boom".to_owned())));
    send(&server, std::slice::from_ref(&run)).unwrap();
    let e = server.experiment();
    assert_eq!(steps(&e, "train/loss").len(), 40);
    assert_eq!((e.media.len(), e.lines.len(), e.states.len()), (1, 4, 1));
    let requests = server.world().requests.len();
    let said = send(&server, &[dir.path().to_owned()]).unwrap();
    assert!(said[0].contains("everything is there already"), "{said:?}");
    assert_eq!(
        server.world().requests.len(),
        requests,
        "no request for what is known"
    );
    // Without the note beside the file, the server is asked what it has.
    std::fs::remove_dir_all(run.join("debug")).unwrap();
    let said = send(&server, &[run]).unwrap();
    assert!(said[0].contains("were there already"), "{said:?}");
    let e = server.experiment();
    assert_eq!((e.numbers.len(), e.media.len(), e.lines.len()), (80, 1, 4));
}

#[test]
fn a_file_that_was_cut_is_sent_as_far_as_it_goes() {
    let dir = tempfile::tempdir().unwrap();
    let run = offline(dir.path(), Some(&finished()));
    let file = run.join("run-abcd1234.swanlab");
    let whole = std::fs::read(&file).unwrap();
    for cut in [whole.len() - 1, whole.len() / 2, 3000] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let _ = std::fs::remove_dir_all(run.join("debug"));
        let server = Server::start();
        send(&server, std::slice::from_ref(&run)).unwrap();
        let e = server.experiment();
        assert_eq!(e.states, ["CRASHED"], "cut at {cut}");
        assert!(e.numbers.len() > 10);
    }
    std::fs::write(&file, &whole[..20]).unwrap();
    let error = send(&Server::start(), &[run]).unwrap_err().to_string();
    assert!(
        error.contains("does not begin with the start of a run"),
        "{error}"
    );
}

#[test]
fn what_is_no_run_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let error = send(&server, &[dir.path().to_owned()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds no run-ID.swanlab"), "{error}");
    std::fs::write(dir.path().join("run-x.swanlab"), b":SWL\xd6\xe1\x01{}").unwrap();
    let error = send(&server, &[dir.path().to_owned()])
        .unwrap_err()
        .to_string();
    assert!(error.contains("format version 1, expected 2"), "{error}");
}

#[test]
fn a_run_that_goes_on_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let mut tracker = tracker_at("http://127.0.0.1:9", json!({"mode": "offline"}));
    tracker.start(&info(dir.path())).unwrap();
    let error = send(&server, &folders(dir.path())).unwrap_err().to_string();
    assert!(error.contains("still going on"), "{error}");
    drop(tracker);
    send(&server, &folders(dir.path())).unwrap();
    assert_eq!(server.experiment().states, ["CRASHED"]);
}

#[test]
fn another_id_and_project_can_be_given() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start();
    let run = offline(dir.path(), Some(&finished()));
    let what = SyncRequest {
        dirs: vec![run],
        id: Some("other".to_owned()),
        project: Some("q".to_owned()),
        host: Some(server.url.clone()),
        key: Some(KEY.to_owned().into()),
        ..SyncRequest::default()
    };
    sync(&what, &mut |_| {}).unwrap();
    let world = server.world();
    assert_eq!(world.experiments["other"].project, "q");
}
