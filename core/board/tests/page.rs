//! The page and the report in a browser.

mod common;

use common::browser::Browser;
use common::{fixture, serve};
use std::fs;

/// How many of the charts that are on the screen have a line in them: pixels in the colour of a run.
const DRAWN: &str = "[...document.querySelectorAll('figure.chart')].filter((node) => {
    const canvas = node.querySelector('canvas');
    const pixels = canvas.width ? canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data : [];
    let strong = 0;
    for (let at = 0; at < pixels.length; at += 4) {
        const [r, g, b, a] = pixels.slice(at, at + 4);
        if (a > 200 && Math.max(r, g, b) - Math.min(r, g, b) > 60) strong++;
    }
    return strong > 50;
}).length";

/// What is wider than the screen.
const WIDER: &str = "[...document.querySelectorAll('body *')].filter((node) => {
    const inside = node.closest('.scroll, .answers, .tabs, nav, .log, .unseen');
    return (!inside || inside === node) && node.getBoundingClientRect().right > innerWidth + 1;
}).map((node) => node.outerHTML.slice(0, 80)).concat(
    document.documentElement.scrollWidth > innerWidth ? ['the page'] : []).join('\\n')";

/// Texts that stand out too little from what is behind them: less than 4.5 to 1.
const FAINT: &str = "(() => {
    const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255).map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, n) => sum + c * [0.2126, 0.7152, 0.0722][n], 0);
    const behind = (node) => {
        for (let at = node; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            if (color.length === 3 || color[3] === 1) return color;
        }
        return [255, 255, 255];
    };
    const faint = new Set();
    for (const node of document.querySelectorAll('#app *')) {
        const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
        if (!own || !node.getClientRects().length || node.matches('option')) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) faint.add(`${ratio.toFixed(2)} ${node.tagName}.${node.className} ${node.textContent.slice(0, 30)}`);
    }
    return [...faint].join('\\n');
})()";

#[test]
fn the_page_shows_runs_and_follows_them() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let home = tempfile::tempdir().unwrap();
    let root = home.path().join("output");
    fixture::morning(&root).unwrap();
    let url = format!("http://{}/", serve(&root));

    // Without a choice, what is running is shown.
    browser.look(1440, 900, "light");
    browser.open(&url);
    assert_eq!(
        browser.eval("document.querySelectorAll('.runs li').length"),
        5
    );
    assert_eq!(
        browser.eval("document.querySelectorAll('.runs li.shown').length"),
        1
    );
    browser.until(&format!("{DRAWN} >= 4"));
    browser.picture("watch-one");

    // A line that the run writes arrives in its curve without a reload.
    let run = root.join("long-context/v1-20261125-113000");
    let file = run.join("logging.jsonl");
    let line =
        "{\"loss\": 0.77, \"global_step/max_steps\": \"413/600\", \"elapsed_time\": \"16m 5s\"}\n";
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, before + line).unwrap();
    browser.until("document.querySelector('.tile b').textContent === '413 / 600'");
    browser.until("document.querySelector('figure.chart').chart.lines[0].y.at(-1) === 0.77");

    // Others beside it: one line for each, a table to compare them.
    browser.eval(
        "document.querySelectorAll('.runs input').forEach((box) => box.checked || box.click())",
    );
    browser.until("document.querySelectorAll('.runs li.shown').length === 5");
    browser.until("document.querySelectorAll('table.numbers tbody tr').length === 5");
    browser.until(
        "document.querySelector('figure.chart').chart.lines.filter((l) => !l.dash).length === 5",
    );
    browser.picture("watch-light");
    browser.look(1440, 900, "dark");
    browser.until("document.querySelector('figure.chart').chart.stale === false");
    let dark = browser.eval("getComputedStyle(document.body).backgroundColor");
    assert_eq!(dark, "rgb(14, 16, 19)");
    browser.until(&format!("{DRAWN} >= 4"));
    browser.picture("watch-dark");

    // Every view, in both themes, is readable and says something.
    for theme in ["dark", "light"] {
        browser.look(1440, 900, theme);
        for tab in ["samples", "config", "system", "log", "details", "curves"] {
            browser.eval(&format!("document.getElementById('tab-{tab}').click()"));
            let text = browser.eval("document.getElementById('panel').textContent.length");
            assert!(text.as_u64().unwrap() > 100, "{tab}");
            assert_eq!(browser.eval(FAINT), "", "{theme} {tab}");
            assert_eq!(browser.eval(WIDER), "", "{theme} {tab}");
            browser.picture(&format!("watch-{tab}-{theme}"));
        }
    }
    browser.eval("document.getElementById('tab-config').click()");
    let options = browser.eval(
        "[...document.querySelectorAll('.config tbody th')].map((n) => n.textContent).join()",
    );
    let options = options.as_str().unwrap();
    assert!(
        options.contains("learning_rate") && !options.contains("max_length"),
        "{options}"
    );

    // What is shown is in the address.
    browser.call("Page.reload", serde_json::json!({}));
    browser.until("document.querySelectorAll('.runs li.shown').length === 5");
    assert_eq!(
        browser.eval("document.getElementById('tab-config').ariaSelected"),
        "true"
    );
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

#[test]
fn the_page_fits_a_phone() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    fixture::morning(root.path()).unwrap();
    let url = format!("http://{}/", serve(root.path()));
    browser.look(360, 760, "dark");
    browser.open(&url);
    for tab in ["samples", "config", "system", "log", "details", "curves"] {
        browser.eval(&format!("document.getElementById('tab-{tab}').click()"));
        assert_eq!(browser.eval(WIDER), "", "{tab}");
        browser.picture(&format!("phone-{tab}"));
    }
    browser.until("document.querySelector('figure.chart').chart.stale === false");
    browser.until(&format!("{DRAWN} >= 1"));
    browser.eval("document.querySelector('.menu').click()");
    assert_eq!(
        browser.eval("document.querySelectorAll('.runs li').length"),
        5
    );
    assert_eq!(browser.eval(WIDER), "");
    browser.picture("phone-runs");
    browser.eval(
        "document.querySelectorAll('.runs input').forEach((box) => box.checked || box.click())",
    );
    browser.until("document.querySelectorAll('table.numbers tbody tr').length === 5");
    assert_eq!(browser.eval(WIDER), "");
    browser.picture("phone-many");
    // The choice of one run closes the list.
    browser.eval("document.querySelector('.runs .run').click()");
    assert_eq!(browser.eval("document.body.className"), "watch");
    browser.until("document.querySelectorAll('.tile').length > 4");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

#[test]
fn a_chart_answers_to_mouse_and_keys() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("run");
    fixture::Story::default().write(&dir).unwrap();
    let file = apus_board::report::of_run(&dir).unwrap();
    browser.look(1280, 900, "light");
    browser.open(&format!("file://{}", file.display()));
    let chart = "document.querySelector('figure.chart').chart";
    browser.until(&format!("Boolean({chart}.view)"));
    let place = browser.eval(&format!("(({{left, top, width, height}}) => [left, top, width, height])({chart}.plot.getBoundingClientRect())"));
    let at = |n: usize| place[n].as_f64().unwrap();
    let (x, y) = (at(0) + at(2) / 2.0, at(1) + at(3) / 2.0);

    // The values under the pointer.
    browser.mouse("mouseMoved", x, y);
    browser.until(&format!("!{chart}.tip.hidden"));
    let tip = browser.eval(&format!("{chart}.tip.textContent"));
    assert!(tip.as_str().unwrap().starts_with("step "), "{tip}");
    browser.picture("report-pointer");

    // What is marked is zoomed into, in all charts of the group.
    browser.mouse("mousePressed", x, y);
    browser.mouse("mouseMoved", x + 80.0, y);
    browser.mouse("mouseReleased", x + 80.0, y);
    browser.until(&format!("{chart}.view.x[1] - {chart}.view.x[0] < 300"));
    browser.until("[...document.querySelectorAll('figure.chart')].filter((n) => n.chart.group.zoom).length > 4");

    // Keys do the same.
    browser.eval(&format!("{chart}.node.focus()"));
    browser.key("0");
    browser.until(&format!("{chart}.group.zoom === null"));
    browser.key("End");
    browser.until(&format!(
        "{chart}.said.textContent.startsWith('step 600: ')"
    ));
    browser.key("ArrowLeft");
    browser.until(&format!(
        "{chart}.said.textContent.startsWith('step 599: ')"
    ));
    browser.key("+");
    browser.until(&format!("{chart}.group.zoom !== null"));
    browser.key("Escape");

    // Smoothing, logarithm and time.
    browser.eval("(() => { const s = document.querySelector('input[type=range]'); s.value = 0; s.dispatchEvent(new Event('input')); })()");
    browser.until(&format!(
        "{chart}.values({chart}.lines[0]) === {chart}.lines[0].y"
    ));
    browser.eval("[...document.querySelectorAll('button.toggle')].find((n) => n.textContent === 'Log').click()");
    browser.until(&format!("{chart}.view.log === true"));
    browser.eval("document.querySelector('[data-axis=time]').click()");
    browser.until(&format!("{chart}.view.x[1] > 1000"));
    browser.until(&format!("{DRAWN} >= 3"));
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

#[test]
fn the_report_is_whole_and_safe() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    fixture::morning(root.path()).unwrap();
    let hostile = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">";
    let line = serde_json::json!({"step": 600, "prompt": hostile, "answer": hostile});
    let samples = root.path().join("rank-32/v0-20261125-101500/samples.jsonl");
    let before = fs::read_to_string(&samples).unwrap();
    fs::write(&samples, format!("{before}{line}\n")).unwrap();
    let out = root.path().join("all.html");
    apus_board::report::write(&[root.path().to_owned()], Some(&out)).unwrap();
    for (theme, width) in [("light", 1280), ("dark", 1280), ("light", 360)] {
        browser.look(width, 900, theme);
        browser.open(&format!("file://{}", out.display()));
        assert_eq!(browser.eval("document.title"), "5 runs");
        assert_eq!(
            browser.eval("document.querySelectorAll('#app script, #app img').length"),
            0
        );
        assert_eq!(
            browser.eval("document.querySelectorAll('section.part').length"),
            6
        );
        assert_eq!(browser.eval(WIDER), "", "{theme} {width}");
        assert_eq!(browser.eval(FAINT), "", "{theme}");
        browser.picture(&format!("report-{theme}-{width}"));
        browser.until(&format!("{DRAWN} >= 1"));
    }
    browser.eval("document.querySelector('.which button').click()");
    browser.until(
        "document.querySelector('figure.chart').chart.lines.filter((l) => !l.dash).length === 4",
    );
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}

/// What every object of JavaScript has is a name like any other.
#[test]
fn names_may_be_those_of_the_language() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    const NAMES: [&str; 4] = ["constructor", "__proto__", "toString", "hasOwnProperty"];
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("a");
    fs::create_dir(&dir).unwrap();
    fs::create_dir(root.path().join("b")).unwrap();
    let own: Vec<String> = NAMES.map(|name| format!("\"{name}\": 1")).into();
    let own = own.join(", ");
    let lines = |extra: &str| {
        let line = |n| format!("{{\"global_step/max_steps\": \"{n}/9\", {extra}{own}}}\n");
        (1..=9).map(line).collect::<String>()
    };
    fs::write(dir.join("args.json"), format!("{{{own}}}")).unwrap();
    fs::write(root.path().join("b/args.json"), "{}").unwrap();
    fs::write(dir.join("logging.jsonl"), lines("\"loss\": 1, ")).unwrap();
    fs::write(dir.join("system.jsonl"), lines("\"time\": 1, ")).unwrap();
    let out = root.path().join("all.html");
    apus_board::report::write(&[root.path().to_owned()], Some(&out)).unwrap();
    for url in [
        format!("file://{}", out.display()),
        format!("http://{}/#run=a&run=b&tab=curves", serve(root.path())),
    ] {
        browser.look(1280, 900, "light");
        browser.open(&url);
        browser.until("document.querySelectorAll('figure.chart').length >= 5");
        let titles = browser.eval(
            "[...document.querySelectorAll('figure.chart b')].map((n) => n.textContent).join()",
        );
        for name in NAMES {
            assert!(titles.as_str().unwrap().contains(name), "{name}: {titles}");
        }
        assert!(browser.errors.is_empty(), "{url} {:#?}", browser.errors);
    }
    let functions = browser.eval("document.body.textContent.includes('native code')");
    assert_eq!(functions, false);
}

#[test]
fn long_curves_stay_quick() {
    let Some(mut browser) = Browser::start() else {
        return;
    };
    let root = tempfile::tempdir().unwrap();
    let long = fixture::Story {
        steps: 20_000,
        made: 20_000,
        ..fixture::Story::default()
    };
    long.write(&root.path().join("a")).unwrap();
    long.write(&root.path().join("b")).unwrap();
    let url = format!("http://{}/#run=a&run=b&tab=curves", serve(root.path()));
    browser.look(1440, 900, "light");
    browser.open(&url);
    browser.until("document.querySelectorAll('figure.chart').length > 5");
    browser.until("document.querySelector('figure.chart').chart.lines[0].y.length === 20000");
    browser.until("Boolean(document.querySelector('figure.chart').chart.view)");
    let took = browser.eval(
        "(() => {
            const charts = [...document.querySelectorAll('figure.chart')].map((n) => n.chart).filter((c) => c.visible);
            const start = performance.now();
            charts.forEach((chart) => { chart.group.smoothing = 0.5; chart.draw(); });
            return (performance.now() - start) / charts.length;
        })()",
    );
    eprintln!("a chart with two curves of 20,000 points is drawn in {took} ms");
    assert!(took.as_f64().unwrap() < 200.0, "{took} ms a chart");
    assert!(browser.errors.is_empty(), "{:#?}", browser.errors);
}
