//! Models and datasets by name, from a server on this machine.

mod hub_common;
mod loopback;

use apus_data::hub::Hub;
use hub_common::{NOWHERE, error, hub, settings, weights};
use loopback::{Answer, COMMIT, Files, Server, hugging_face, sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn tiny() -> Files {
    vec![
        ("README.md", b"# Tiny".to_vec(), false),
        ("config.json", b"{}".to_vec(), false),
        ("model.safetensors", weights(), true),
        ("original/model.safetensors", weights(), true),
        ("tokenizer.json", b"{\"a\": 1}".to_vec(), true),
    ]
}

const TINY: &str = "models/owner/tiny";

#[test]
fn a_model_comes_whole_in_the_layout_of_huggingface_hub() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, _| hugging_face(TINY, &tiny(), request));
    let found = hub(&server.url, dir.path()).model("owner/tiny").unwrap();
    let home = dir.path().join("hf/models--owner--tiny");
    assert_eq!(found, home.join("snapshots").join(COMMIT));
    assert_eq!(
        fs::read(found.join("model.safetensors")).unwrap(),
        weights()
    );
    let link = fs::read_link(found.join("model.safetensors")).unwrap();
    assert_eq!(
        link,
        PathBuf::from(format!("../../blobs/{}", sha256(&weights())))
    );
    let config = format!("../../blobs/b10b{}", &sha256(b"{}")[..36]);
    assert_eq!(
        fs::read_link(found.join("config.json")).unwrap(),
        PathBuf::from(config)
    );
    assert_eq!(fs::read_to_string(home.join("refs/main")).unwrap(), COMMIT);
    let blobs = fs::read_dir(home.join("blobs")).unwrap().count();
    assert_eq!(blobs, 3, "no partial file stays");
    assert!(server.asked("original").is_empty() && server.asked("README").is_empty());
    assert!(server.asked("blobs=true").len() == 1 && server.seen().len() == 4);

    hub(&server.url, dir.path())
        .model("hf::owner/tiny")
        .unwrap();
    assert_eq!(
        server.seen().len(),
        5,
        "what is there is not asked for again"
    );
    let at = hub(&server.url, dir.path())
        .model(&format!("owner/tiny@{COMMIT}"))
        .unwrap();
    assert_eq!(at, found);
}

#[test]
fn a_tokenizer_comes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, _| hugging_face(TINY, &tiny(), request));
    let found = hub(&server.url, dir.path())
        .tokenizer(Path::new("owner/tiny"))
        .unwrap();
    assert!(found.join("tokenizer.json").is_file() && !found.join("model.safetensors").exists());
    let offline = hub(NOWHERE, dir.path());
    assert!(offline.tokenizer(Path::new("owner/tiny")).is_ok());
    let said = error(offline.model("owner/tiny"));
    assert!(said.contains("is not complete"), "{said}");
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, before| {
        let answer = hugging_face(TINY, &tiny(), request);
        match request.path.ends_with("model.safetensors") && before == 0 {
            true => answer.cut(100_000),
            false => answer,
        }
    });
    let found = hub(&server.url, dir.path()).model("owner/tiny").unwrap();
    assert_eq!(
        fs::read(found.join("model.safetensors")).unwrap(),
        weights()
    );
    let asked = server.asked("model.safetensors");
    assert_eq!(asked.len(), 2);
    assert_eq!((asked[0].from(), asked[1].from()), (None, Some(100_000)));
}

#[test]
fn a_later_run_goes_on_too_and_a_server_without_ranges_starts_again() {
    for ranges in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let broken = Server::start(|request, _| {
            let answer = hugging_face(TINY, &tiny(), request);
            match request.path.ends_with("model.safetensors") {
                true if request.from().is_some() => {
                    Answer::new(206, "").with("content-range", "bytes 50000-50000/300000")
                }
                true => answer.cut(50_000),
                false => answer,
            }
        });
        let said = error(hub(&broken.url, dir.path()).model("owner/tiny"));
        assert!(
            said.contains("model.safetensors: ") && said.contains("50000 of 300000 bytes are kept"),
            "{said}"
        );
        let home = dir.path().join("hf/models--owner--tiny");
        assert!(
            !home
                .join("snapshots")
                .join(COMMIT)
                .join("model.safetensors")
                .exists()
        );
        assert!(!home.join("refs/main").exists());

        let server = Server::start(move |request, _| {
            let mut request = request.clone();
            if !ranges {
                request.headers.remove("range");
            }
            hugging_face(TINY, &tiny(), &request)
        });
        let found = hub(&server.url, dir.path()).model("owner/tiny").unwrap();
        assert_eq!(
            fs::read(found.join("model.safetensors")).unwrap(),
            weights()
        );
        assert_eq!(server.asked("model.safetensors")[0].from(), Some(50_000));
    }
}

#[test]
fn a_wrong_size_or_hash_never_gets_the_name() {
    for (sent, says) in [
        (
            weights()[..1000].to_vec(),
            "ends after 1000 of the 300000 bytes",
        ),
        (
            [weights(), weights()].concat(),
            "more than the 300000 bytes",
        ),
        (vec![0; 300_000], "sha256"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let server =
            Server::start(
                move |request, _| match request.path.ends_with("model.safetensors") {
                    true => Answer::bytes(request, &sent),
                    false => hugging_face(TINY, &tiny(), request),
                },
            );
        let said = error(hub(&server.url, dir.path()).model("owner/tiny"));
        assert!(
            said.contains("model.safetensors") && said.contains(says),
            "{said}"
        );
        let blob = dir
            .path()
            .join("hf/models--owner--tiny/blobs")
            .join(sha256(&weights()));
        assert!(!blob.exists());
        let whole = Server::start(|request, _| hugging_face(TINY, &tiny(), request));
        assert!(
            hub(&whole.url, dir.path()).model("owner/tiny").is_ok(),
            "after {says}"
        );
    }
}

#[test]
fn refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let refusing = |status: u16, code: &'static str| {
        Server::start(move |_, _| {
            Answer::new(status, "{\"error\":\"Said so.\"}").with("x-error-code", code)
        })
    };
    let server = refusing(401, "GatedRepo");
    let said = error(hub(&server.url, dir.path()).model("owner/tiny"));
    assert!(
        said.contains("Said so.") && said.contains("HF_TOKEN") && said.contains("gated"),
        "{said}"
    );
    let mut with_key = settings(&server.url, dir.path());
    with_key.hugging_face.token = Some("hf_key".to_owned());
    let said = error(Hub::new(with_key).model("owner/tiny"));
    assert!(said.contains("token was not accepted"), "{said}");
    assert_eq!(server.seen()[1].headers["authorization"], "Bearer hf_key");

    let server = refusing(401, "RepoNotFound");
    let said = error(hub(&server.url, dir.path()).model("scr/nope"));
    assert!(
        said.contains("neither such a path") && said.contains("if it is private"),
        "{said}"
    );
    let server = refusing(404, "RepoNotFound");
    let mut with_key = settings(&server.url, dir.path());
    with_key.hugging_face.token = Some("hf_key".to_owned());
    let said = error(Hub::new(with_key).model("src/hup"));
    assert!(
        said.contains("`src/hub` is") && said.contains("model src/hup"),
        "{said}"
    );
    let said = error(hub(&refusing(404, "RevisionNotFound").url, dir.path()).model("a/b@v9"));
    assert!(said.contains("no revision v9"), "{said}");
    assert!(error(hub(NOWHERE, dir.path()).model("/no/model")).contains("no such model directory"));
}

#[test]
fn a_busy_server_is_asked_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, before| match before {
        0 => Answer::new(429, "").with("retry-after", 0),
        1 => Answer::new(503, ""),
        _ => hugging_face(TINY, &tiny(), request),
    });
    assert!(hub(&server.url, dir.path()).model("owner/tiny").is_ok());
    let server = Server::start(|_, _| Answer::new(500, ""));
    let said = error(hub(&server.url, dir.path()).model("owner/other"));
    assert!(said.contains("500"), "{said}");
    assert_eq!(server.seen().len(), 6);
}

/// A listing without an end is given up after 64 MiB, so that it cannot fill the memory.
#[test]
fn a_listing_without_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Answer {
        endless: true,
        ..Answer::new(200, vec![b' '; 1 << 20])
    });
    for word in ["owner/tiny", "ms::owner/tiny"] {
        let said = error(hub(&server.url, dir.path()).model(word));
        assert!(said.contains("longer than 64 MiB"), "{said}");
    }
}

#[test]
fn the_login_of_an_address_goes_along_and_is_not_shown() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|_, _| Answer::new(403, "{}"));
    let mut settings = settings(&server.url, dir.path());
    settings.hugging_face.login = Some(("me".to_owned(), "secret".to_owned()));
    let said = error(Hub::new(settings.clone()).model("owner/tiny"));
    assert!(said.contains("403") && !said.contains("secret"), "{said}");
    let sent = |at: usize| server.seen()[at].headers["authorization"].clone();
    assert_eq!(sent(0), "Basic bWU6c2VjcmV0");
    settings.hugging_face.token = Some("hf_x".to_owned());
    error(Hub::new(settings).model("owner/tiny"));
    assert_eq!(sent(1), "Bearer hf_x");
}

#[test]
fn without_a_network_the_cache_serves() {
    let dir = tempfile::tempdir().unwrap();
    let said = error(hub(NOWHERE, dir.path()).model("owner/tiny"));
    assert!(
        said.contains("cannot be reached") && said.contains("nor a download"),
        "{said}"
    );
    assert!(!said.contains('\n'));
    let server = Server::start(|request, _| hugging_face(TINY, &tiny(), request));
    let found = hub(&server.url, dir.path()).model("owner/tiny").unwrap();
    assert_eq!(hub(NOWHERE, dir.path()).model("owner/tiny").unwrap(), found);
    let mut offline = settings(&server.url, dir.path());
    offline.offline = true;
    let asked = server.seen().len();
    assert_eq!(
        Hub::new(offline.clone()).model("owner/tiny").unwrap(),
        found
    );
    let said = error(Hub::new(offline).model("owner/other"));
    assert!(said.contains("HF_HUB_OFFLINE is set"), "{said}");
    assert_eq!(server.seen().len(), asked);
}

#[test]
fn a_dataset_gives_the_files_of_its_training_part() {
    let dir = tempfile::tempdir().unwrap();
    let readme = "---\nconfigs:\n- config_name: en\n  data_files:\n  - split: train\n    path: en/train-*\n- config_name: de\n  data_files: de.jsonl\n---\n";
    let files: Files = vec![
        ("README.md", readme.as_bytes().to_vec(), false),
        ("de.jsonl", b"{\"de\": 1}\n".to_vec(), false),
        ("en/test-0.jsonl", b"{}\n".to_vec(), false),
        ("en/train-0.jsonl", b"{\"en\": 0}\n".to_vec(), true),
        ("en/train-1.jsonl", b"{\"en\": 1}\n".to_vec(), true),
    ];
    let server =
        Server::start(move |request, _| hugging_face("datasets/owner/rows", &files, request));
    let hub = hub(&server.url, dir.path());
    let names = |word: &str| -> Vec<String> {
        let home = dir
            .path()
            .join("hf/datasets--owner--rows/snapshots")
            .join(COMMIT);
        let found = hub.dataset(word).unwrap();
        found
            .iter()
            .map(|path| path.strip_prefix(&home).unwrap().display().to_string())
            .collect()
    };
    assert_eq!(
        names("owner/rows:en"),
        ["en/train-0.jsonl", "en/train-1.jsonl"]
    );
    assert!(server.asked("test-0").is_empty() && server.asked("de.jsonl").is_empty());
    assert_eq!(names("owner/rows:all").len(), 3);
    assert!(error(hub.dataset("owner/rows")).contains("several subsets"));
    assert!(error(hub.dataset("owner/rows:fr")).contains("no subset `fr`, there are en, de"));
    assert_eq!(
        hub.dataset("data/nope.jsonl").unwrap(),
        [PathBuf::from("data/nope.jsonl")]
    );
    let gone = self::hub(NOWHERE, dir.path())
        .dataset("owner/rows:en")
        .unwrap();
    assert_eq!(gone.len(), 2);
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files: Files = vec![
        ("../../x.safetensors", weights(), true),
        ("config.json", Vec::new(), false),
    ];
    let server = Server::start(move |request, _| hugging_face(TINY, &files, request));
    let said = error(hub(&server.url, dir.path()).model("owner/tiny"));
    assert!(said.contains("leads out of its folder"), "{said}");
}

#[test]
fn two_at_once_download_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(|request, _| {
        if request.path.ends_with("model.safetensors") {
            std::thread::sleep(Duration::from_millis(300));
        }
        hugging_face(TINY, &tiny(), request)
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| hub(&server.url, dir.path()).model("owner/tiny").unwrap());
        }
    });
    assert_eq!(server.asked("model.safetensors").len(), 1);
}
