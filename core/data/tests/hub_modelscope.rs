//! Models and datasets of ModelScope by name, from a server on this machine.

mod hub_common;
mod loopback;

use apus_data::hub::{Hub, Site};
use hub_common::{NOWHERE, error, settings, weights};
use loopback::{Answer, Server, sha256};
use std::fs;

#[test]
fn modelscope_lists_and_keeps_files_its_own_way() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, _| {
        let file = |path: &str, bytes: &[u8]| serde_json::json!({"Path": path, "Type": "blob", "Size": bytes.len(), "Sha256": sha256(bytes)});
        let listing = |files: Vec<serde_json::Value>| {
            let body = serde_json::json!({"Code": 200, "Success": true, "Data": {"Files": files}});
            Answer::new(200, body.to_string())
        };
        let (path, query) = request.path.split_once('?').unwrap();
        match path {
            "/api/v1/models/owner/tiny.v1/repo/files" => listing(vec![
                serde_json::json!({"Path": "original", "Type": "tree"}),
                file("config.json", b"{}"),
                file("model.safetensors", &weights()),
            ]),
            "/api/v1/datasets/owner/rows/repo/tree" if query.contains("PageNumber=1&") => {
                let more = (0..200).map(|i| file(&format!("notes/{i}.md"), b""));
                listing(more.collect())
            }
            "/api/v1/datasets/owner/rows/repo/tree" => {
                listing(vec![file("data/train.jsonl", b"{}\n")])
            }
            "/api/v1/models/owner/tiny.v1/repo" if query.ends_with("config.json") => {
                Answer::bytes(request, b"{}")
            }
            "/api/v1/models/owner/tiny.v1/repo" => Answer::bytes(request, &weights()),
            "/api/v1/datasets/owner/rows/repo" => Answer::bytes(request, b"{}\n"),
            _ => Answer::new(404, "{\"Code\":10010205001,\"Message\":\"no such repo\"}"),
        }
    });
    let mut settings = settings(&server.url, dir.path());
    settings.site = Site::ModelScope;
    settings.model_scope.token = Some("key".to_owned());
    let hub = Hub::new(settings);
    let found = hub.model("owner/tiny.v1").unwrap();
    assert_eq!(found, dir.path().join("ms/models/owner/tiny___v1"));
    assert_eq!(
        fs::read(found.join("model.safetensors")).unwrap(),
        weights()
    );
    assert_eq!(server.seen()[0].headers["cookie"], "m_session_id=key");
    let rows = hub.dataset("owner/rows").unwrap();
    assert_eq!(
        rows,
        [dir.path().join("ms/datasets/owner/rows/data/train.jsonl")]
    );
    assert_eq!(server.asked("FilePath=data%2Ftrain.jsonl").len(), 1);
    assert!(error(hub.model("owner/nope")).contains("neither such a path"));
    let offline = hub_common::hub(NOWHERE, dir.path());
    assert_eq!(offline.model("ms::owner/tiny.v1").unwrap(), found);
}

/// What modelscope's library keeps since it is based on modelscope_hub.
#[test]
fn modelscope_snapshots_are_read_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let keep = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    };
    let model = "modelscope/models/owner--tiny.v1/snapshots/master";
    keep(&format!("{model}/config.json"), b"{}");
    keep(&format!("{model}/model.safetensors"), &weights());
    let old = "modelscope/datasets/owner--rows/snapshots/v2/data/train.jsonl";
    keep(old, b"{}\n");
    // Its old default is a folder below its new one; MODELSCOPE_CACHE names the same for both.
    for cache in ["modelscope/hub", "modelscope"] {
        let mut settings = settings(NOWHERE, dir.path());
        settings.model_scope.cache = dir.path().join(cache);
        let hub = Hub::new(settings);
        let found = hub.model("ms::owner/tiny.v1").unwrap();
        assert_eq!(found, dir.path().join(model));
        for word in ["ms::owner/rows", "ms::owner/rows@v2"] {
            assert_eq!(hub.dataset(word).unwrap(), [dir.path().join(old)], "{word}");
        }
        let said = error(hub.dataset("ms::owner/rows@v3"));
        assert!(
            said.contains("nor a download of the dataset is here"),
            "{said}"
        );
    }

    let bytes = weights();
    let server = Server::start(move |request, _| {
        let file = |path: &str, bytes: &[u8]| serde_json::json!({"Path": path, "Type": "blob", "Size": bytes.len(), "Sha256": sha256(bytes)});
        let files = [
            file("config.json", b"{}"),
            file("model.safetensors", &bytes),
        ];
        let body = serde_json::json!({"Code": 200, "Success": true, "Data": {"Files": files}});
        match request.path.contains("/repo/files?") {
            true => Answer::new(200, body.to_string()),
            false => Answer::new(500, "nothing has to be downloaded"),
        }
    });
    let mut settings = settings(&server.url, dir.path());
    settings.model_scope.cache = dir.path().join("modelscope/hub");
    let found = Hub::new(settings).model("ms::owner/tiny.v1").unwrap();
    assert_eq!(found, dir.path().join(model));
    // A folder of the old kind comes first, as for the library.
    keep("modelscope/hub/models/owner/tiny___v1/config.json", b"{}");
    keep(
        "modelscope/hub/models/owner/tiny___v1/model.safetensors",
        &weights(),
    );
    let mut settings = hub_common::settings(NOWHERE, dir.path());
    settings.model_scope.cache = dir.path().join("modelscope");
    let found = Hub::new(settings).model("ms::owner/tiny.v1").unwrap();
    assert!(found.ends_with("hub/models/owner/tiny___v1"), "{found:?}");
}
