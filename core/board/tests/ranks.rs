//! Runs of several ranks in the page and the report: every card of every host is there, beside runs of one card.

mod common;

use common::browser::Browser;
use common::fixture::Story;
use common::{fixture, serve};
use std::path::Path;

/// The labels of the lines in the chart of this title.
fn lines(browser: &mut Browser, title: &str) -> Vec<String> {
    let labels = browser.eval(&format!(
        "[...document.querySelectorAll('figure.chart')].map((node) => node.chart).filter((chart) => chart.node.textContent.includes('{title}'))
            .flatMap((chart) => chart.lines.map((line) => line.label)).join('\\n')"
    ));
    let labels = labels.as_str().unwrap_or_default().lines();
    labels.map(str::to_owned).collect()
}

fn stories(root: &Path) {
    let several = Story {
        name: "several",
        cards: &["gpu.0", "gpu.1", "node-2.lab/gpu.0", "node-2.lab/gpu.1"],
        ..Story::default()
    };
    several.write(&root.join("several")).unwrap();
    fixture::Story::default().write(&root.join("one")).unwrap();
}

const CARDS: [&str; 4] = ["GPU 0", "GPU 1", "node-2.lab GPU 0", "node-2.lab GPU 1"];

#[test]
fn the_page_shows_every_card_of_every_host() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    stories(root.path());
    let url = format!("http://{}/", serve(root.path()));
    browser.look(1440, 900, "light");
    browser.open(&format!("{url}#tab=system&run=several"));
    browser.until("document.querySelectorAll('figure.chart').length > 8");
    let labelled = |parts: &[&str]| -> Vec<String> {
        parts
            .iter()
            .map(|part| match part.is_empty() {
                true => "several".to_owned(),
                false => format!("several · {part}"),
            })
            .collect()
    };
    for title in ["GPU busy", "GPU power", "GPU temperature"] {
        assert_eq!(lines(&mut browser, title), labelled(&CARDS), "{title}");
    }
    assert_eq!(
        lines(&mut browser, "Processor busy"),
        labelled(&["", "node-2.lab"])
    );
    assert_eq!(
        lines(&mut browser, "Memory of the process"),
        [
            labelled(&["", "rank 1", "rank 2", "rank 3"]),
            labelled(&[""])
        ]
        .concat(),
        "in MiB and as a share"
    );
    browser.picture("watch-ranks");

    // Beside a run of one card, whose line needs no name of a card.
    browser.eval(
        "document.querySelectorAll('.runs input').forEach((box) => box.checked || box.click())",
    );
    browser.until("document.querySelectorAll('.runs li.shown').length === 2");
    browser.until("document.querySelectorAll('table.numbers tbody tr').length === 2");
    let mut busy = lines(&mut browser, "GPU busy");
    busy.sort();
    let mut expected = labelled(&CARDS);
    expected.push("quickstart".to_owned());
    expected.sort();
    assert_eq!(busy, expected);

    browser.eval("document.getElementById('tab-details').click()");
    browser.until("document.getElementById('panel').textContent.includes('4 ranks (')");
    browser.until("document.getElementById('panel').textContent.includes('node-2.lab: 2, 3)')");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

#[test]
fn the_report_shows_every_card_of_every_host() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    stories(root.path());
    let file = apus_board::report::of_run(&root.path().join("several")).unwrap();
    browser.look(1280, 900, "light");
    browser.open(&format!("file://{}", file.display()));
    browser.until("document.querySelectorAll('figure.chart').length > 12");
    assert_eq!(lines(&mut browser, "GPU busy").len(), CARDS.len());
    assert_eq!(lines(&mut browser, "tokens_per_second_per_rank").len(), 1);
    let tiles =
        "[...document.querySelectorAll('.tile')].map((tile) => tile.textContent).join('\\n')";
    let tiles = browser.eval(tiles);
    let tiles = tiles.as_str().unwrap();
    assert!(
        tiles.contains(" 1,284 a rank") && tiles.contains("4 cards "),
        "{tiles}"
    );
    browser.picture("report-ranks");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}
