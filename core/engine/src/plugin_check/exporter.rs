//! Exporters: they write files of a small model, and only files.

use super::{Checked, Finding, Findings, push};
use anyhow::Context;
use apus_sdk::{Exporter, Writes, testing};

pub(super) fn check(checked: &Checked, findings: &mut Findings) -> anyhow::Result<()> {
    let made = checked.make::<dyn Exporter>()?;
    let writes = made.component.writes();
    if writes != Writes::Files {
        findings.push(Finding::Good(format!(
            "leaves it to Apus to write {writes:?}"
        )));
        return Ok(());
    }
    let model: [(&str, &[usize], Vec<f32>); 3] = [
        (
            "model.embed_tokens.weight",
            &[5, 4],
            (0..20).map(|v| v as f32 - 9.5).collect(),
        ),
        ("model.norm.weight", &[4], vec![1.0; 4]),
        (
            "model.layers.0.mlp.experts.down_proj",
            &[2, 4, 3],
            vec![-0.5; 24],
        ),
    ];
    let result = tempfile::tempdir()
        .context("a folder for the export")
        .and_then(|folder| {
            let export = testing::export(made.component.as_ref(), folder.path(), &model);
            made.context("export", export)?;
            let names = std::fs::read_dir(folder.path())?
                .map(|file| Ok(file?.file_name().to_string_lossy().into_owned()))
                .collect::<std::io::Result<Vec<_>>>()?;
            Ok(names.join(", "))
        });
    push(findings, "a small model", result);
    Ok(())
}
