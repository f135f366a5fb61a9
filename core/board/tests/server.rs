//! The server of `apus watch` over loopback.

mod common;

use apus_board::watch::Server;
use common::{ask, fixture, get, serve};
use serde_json::Value;
use std::fs;

#[test]
fn the_page_and_its_parts_are_served() {
    let root = tempfile::tempdir().unwrap();
    let address = serve(root.path());
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    for rule in [
        "content-security-policy: default-src 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(page.head.contains(rule), "{rule}\n{}", page.head);
    }
    let sources = page.body.split("assets/").skip(1);
    let names: Vec<&str> = sources.filter_map(|rest| rest.split('"').next()).collect();
    assert!(names.len() >= 9, "{names:?}");
    for name in names {
        let asset = get(address, &format!("/assets/{name}"));
        assert_eq!(asset.status, 200, "{name}");
        assert!(!asset.body.is_empty(), "{name}");
    }
}

#[test]
fn only_what_is_new_is_sent() {
    let root = tempfile::tempdir().unwrap();
    fixture::morning(root.path()).unwrap();
    let address = serve(root.path());
    let list: Value = serde_json::from_str(&get(address, "/api/runs?since=0").body).unwrap();
    assert_eq!(list["runs"].as_array().unwrap().len(), 5);
    let id = "long-context/v1-20261125-113000";
    let path = format!("/api/run?id={id}");
    let first: Value = serde_json::from_str(&get(address, &path).body).unwrap();
    assert_eq!(first["train"]["rows"], 212);
    assert_eq!(first["facts"]["state"], "running");
    let known = format!(
        "{path}&generation={}&facts={}&train=212&eval=4&system={}&samples=6&log={}",
        first["generation"].as_str().unwrap(),
        first["facts"]["version"].as_str().unwrap(),
        first["system"]["rows"],
        first["log"]["to"],
    );
    let nothing = get(address, &known);
    assert!(nothing.body.len() < 500, "{}", nothing.body);

    let line = "{\"loss\": 1.25, \"global_step/max_steps\": \"413/600\"}\n";
    let file = root.path().join(id).join("logging.jsonl");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before + line).unwrap();
    let new: Value = serde_json::from_str(&get(address, &known).body).unwrap();
    assert_eq!(new["train"]["columns"]["step"], serde_json::json!([413]));
    assert_eq!(new["step"], 413);
}

#[test]
fn nothing_else_is_served() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("runs");
    fs::create_dir_all(dir.join("a")).unwrap();
    fs::write(dir.join("a/run.json"), "{}").unwrap();
    fs::write(root.path().join("secret"), "secret").unwrap();
    let address = serve(&dir);
    for path in [
        "/../secret",
        "/a/run.json",
        "/assets/../run.json",
        "/assets/..%2f..%2fCargo.toml",
        "/api/run?id=../runs/a",
        "/api/run?id=..",
        "/api/run?id=%2e%2e%2fsecret",
        "/api/run?id=/etc/passwd",
    ] {
        assert_eq!(get(address, path).status, 404, "{path}");
    }
    for path in ["/api/run", "/api/run?id=a&train=-1", "/api/runs?since=x"] {
        assert_eq!(get(address, path).status, 400, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = ask(address, method, "/api/runs", Some("localhost"));
        assert_eq!(answer.status, 405, "{method}");
    }
}

#[test]
fn strangers_names_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let address = serve(root.path());
    let own = address.to_string();
    assert_eq!(ask(address, "GET", "/api/runs", Some(&own)).status, 200);
    for host in [Some("rebound.example.org"), Some("10.0.0.1:7007"), None] {
        for path in ["/", "/api/runs", "/assets/watch.js"] {
            let status = ask(address, "GET", path, host).status;
            assert!(matches!(status, 400 | 403), "{host:?} {path} {status}");
        }
    }
}

#[test]
fn a_place_that_is_taken_is_said() {
    let root = tempfile::tempdir().unwrap();
    let taken = Server::bind(root.path(), "127.0.0.1", Some(0)).unwrap();
    let port = taken.address().port();
    let error = Server::bind(root.path(), "127.0.0.1", Some(port))
        .err()
        .unwrap();
    let error = error.to_string();
    assert!(
        error.contains("is in use") && error.contains("--port"),
        "{error}"
    );
    let error = Server::bind(root.path(), "192.0.2.1", None).err().unwrap();
    assert!(error.to_string().contains("--host"), "{error}");
    let error = Server::bind(&root.path().join("none"), "127.0.0.1", None)
        .err()
        .unwrap();
    assert!(error.to_string().contains("is no folder"), "{error}");
}
