//! A cache of the kernels that this process has loaded, so that a launch need not ask the driver for them.
//!
//! A module is loaded at the first launch of one of its kernels and stays as long as the process: devices of the same
//! card share the card's primary context, and what is loaded into it serves them all.

use crate::Module;
use anyhow::{Context, Result};
use cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
use cudarc::driver::{CudaContext, CudaFunction, CudaModule};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

/// The bytes of dynamic shared memory that every kernel may use without asking for more.
const SHARED: u32 = 48 * 1024;

/// The address of a context, and the name of a module.
type Key = (usize, &'static str);

static LOADED: LazyLock<RwLock<HashMap<Key, LoadedModule>>> = LazyLock::new(RwLock::default);

struct LoadedModule {
    module: Arc<CudaModule>,
    functions: HashMap<&'static str, Arc<LoadedFunction>>,
}

struct LoadedFunction {
    function: CudaFunction,
    /// The bytes of dynamic shared memory that it may use.
    shared: AtomicU32,
}

/// The kernel of this name, allowed `shared` bytes of dynamic shared memory.
///
/// # Errors
/// The module has no code for the card, it has no such kernel, or the card has less shared memory.
pub fn get(
    context: &Arc<CudaContext>,
    module: &'static Module,
    kernel: &'static str,
    shared: u32,
) -> Result<CudaFunction> {
    let key = (context.cu_ctx() as usize, module.name);
    let known = {
        let loaded = LOADED.read().unwrap_or_else(PoisonError::into_inner);
        let functions = loaded.get(&key).map(|loaded| &loaded.functions);
        functions.and_then(|functions| functions.get(kernel).cloned())
    };
    let function = match known {
        Some(function) => function,
        None => load(context, key, module, kernel)?,
    };
    if shared > function.shared.load(Ordering::Relaxed) {
        allow_shared_memory(context, &function.function, shared)?;
        function.shared.store(shared, Ordering::Relaxed);
    }
    Ok(function.function.clone())
}

fn load(
    context: &Arc<CudaContext>,
    key: Key,
    module: &'static Module,
    kernel: &'static str,
) -> Result<Arc<LoadedFunction>> {
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    let loaded = match loaded.entry(key) {
        Entry::Occupied(entry) => entry.into_mut(),
        Entry::Vacant(entry) => entry.insert(LoadedModule {
            module: context
                .load_module(Ptx::from_binary(module.image.to_vec()))
                .with_context(|| format!("module {} cannot be loaded", module.name))?,
            functions: HashMap::new(),
        }),
    };
    let function = Arc::new(LoadedFunction {
        function: loaded
            .module
            .load_function(kernel)
            .with_context(|| format!("module {} has no such kernel", module.name))?,
        shared: AtomicU32::new(SHARED),
    });
    loaded.functions.insert(kernel, function.clone());
    Ok(function)
}

fn allow_shared_memory(
    context: &Arc<CudaContext>,
    function: &CudaFunction,
    shared: u32,
) -> Result<()> {
    context.bind_to_thread()?;
    let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    function
        .set_attribute(attribute, i32::try_from(shared)?)
        .with_context(|| {
            format!("{shared} bytes of shared memory for a block are more than this card has")
        })
}
