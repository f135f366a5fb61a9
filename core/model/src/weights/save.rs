//! Writes files of tensors.

use anyhow::{Context, Result};
use candle_core::Tensor;
use std::collections::HashMap;
use std::path::Path;

/// Writes tensors as safetensors, whole or not at all.
pub fn save(tensors: &HashMap<String, Tensor>, path: &Path) -> Result<()> {
    candle_core::safetensors::save(tensors, path)
        .map_err(Into::into)
        .and_then(|()| apply_umask(path))
        .with_context(|| format!("{}: cannot be written", path.display()))
}

/// Gives a file the permissions that the umask gives to new files. The crate safetensors makes files that only their
/// owner can read, whatever the umask is.
pub fn apply_umask(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        use std::fs::Permissions;
        use std::os::unix::fs::PermissionsExt;
        // Reading the umask means setting it for the whole process, so a new file is made to see its permissions.
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let new = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder.unwrap_or(Path::new(".")))?;
        std::fs::set_permissions(path, new.as_file().metadata()?.permissions())?;
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use candle_core::Device;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_of_tensors_is_for_the_same_people_as_any_other() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("usual"), "").unwrap();
        let tensor = Tensor::new(&[1.0f32], &Device::Cpu).unwrap();
        save(&HashMap::from([("a".to_owned(), tensor)]), &at("a")).unwrap();
        let mode = |name: &str| at(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode("a"), mode("usual"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let error = save(&HashMap::new(), &at("none/a")).unwrap_err();
        assert!(error.to_string().contains("none/a: cannot be written"));
    }
}
