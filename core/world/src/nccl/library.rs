//! NCCL's functions, found in its library at run time, so that nothing is linked and a machine without it runs too.

use anyhow::{Context, Result, bail, ensure};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

/// `ncclResult_t`.
pub type Code = c_int;

/// A call that has succeeded.
pub const SUCCESS: Code = 0;

/// A call that goes on in the background.
pub const IN_PROGRESS: Code = 7;

/// `ncclComm_t`.
pub type Comm = *mut c_void;

/// `cudaStream_t`.
pub type CudaStream = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId {
    /// Its bytes.
    pub bytes: [u8; 128],
}

/// The oldest version whose configuration is as [`Config`] describes it.
const OLDEST: c_int = 21800;

/// `ncclConfig_t` as far as version 2.18 has it. NCCL reads as many bytes as `size` says.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
}

impl Config {
    /// Calls return at once and go on in the background, so that a rank that does not come is no call that never returns.
    pub fn non_blocking() -> Self {
        /// `NCCL_CONFIG_UNDEF_INT`.
        const UNDEFINED: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: OLDEST.unsigned_abs(),
            blocking: 0,
            cga_cluster_size: UNDEFINED,
            min_ctas: UNDEFINED,
            max_ctas: UNDEFINED,
            net_name: std::ptr::null(),
            split_share: UNDEFINED,
        }
    }
}

/// Declares the functions of the library by their names and types, and finds all of them.
macro_rules! functions {
    ($($field:ident = $name:literal: fn($($arg:ty),*) -> $result:ty;)*) => {
        /// The functions, as `nccl.h` declares them. The library stays open until the process ends.
        #[allow(missing_docs)]
        pub struct Functions {
            $(pub $field: unsafe extern "C" fn($($arg),*) -> $result,)*
        }

        impl Functions {
            fn find(library: &Library) -> Result<Self> {
                Ok(Self {
                    // SAFETY: the types are those of nccl.h for version 2.18 and later, which has been the same since.
                    $($field: *unsafe { library.get($name.as_bytes()) }
                        .with_context(|| format!("it has no function {}", $name))?,)*
                })
            }
        }
    };
}

functions! {
    unique_id = "ncclGetUniqueId": fn(*mut UniqueId) -> Code;
    init = "ncclCommInitRankConfig": fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Code;
    async_error = "ncclCommGetAsyncError": fn(Comm, *mut Code) -> Code;
    abort = "ncclCommAbort": fn(Comm) -> Code;
    finalize = "ncclCommFinalize": fn(Comm) -> Code;
    destroy = "ncclCommDestroy": fn(Comm) -> Code;
    all_reduce = "ncclAllReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, CudaStream) -> Code;
    reduce = "ncclReduce": fn(*const c_void, *mut c_void, usize, c_int, c_int, c_int, Comm, CudaStream) -> Code;
    all_gather = "ncclAllGather": fn(*const c_void, *mut c_void, usize, c_int, Comm, CudaStream) -> Code;
    broadcast = "ncclBroadcast": fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, CudaStream) -> Code;
    error_string = "ncclGetErrorString": fn(Code) -> *const c_char;
    last_error = "ncclGetLastError": fn(Comm) -> *const c_char;
}

/// The library, open.
pub struct Nccl {
    /// Its functions.
    pub functions: Functions,
    /// `2.28.9`.
    pub version: String,
}

impl Nccl {
    /// Opens the library: the file that APUS_NCCL names, or else the one that the loader finds.
    ///
    /// # Errors
    /// There is none, or it is too old; the error says where it was looked for and what is needed.
    pub fn open() -> Result<Self> {
        let named = std::env::var_os("APUS_NCCL");
        let files = match named {
            Some(file) => vec![file],
            None => ["libnccl.so.2", "libnccl.so"].map(Into::into).to_vec(),
        };
        let mut tried = Vec::new();
        for file in &files {
            let shown = file.to_string_lossy();
            // SAFETY: the initialisers of NCCL are those that every user of the library runs.
            match unsafe { Library::new(file) } {
                Ok(library) => return Self::of(library).with_context(|| format!("NCCL: {shown}")),
                Err(error) => tried.push(format!("{shown} ({error})")),
            }
        }
        bail!(
            "several cards need NCCL 2.18 or newer, and its library was not found: tried {}. Install it (libnccl2, or the \
             wheel nvidia-nccl-cu13), and name the file by APUS_NCCL where the loader does not find it",
            tried.join(", ")
        )
    }

    fn of(library: Library) -> Result<Self> {
        // SAFETY: the type is that of nccl.h.
        let get: libloading::Symbol<unsafe extern "C" fn(*mut c_int) -> Code> =
            unsafe { library.get(b"ncclGetVersion") }
                .context("it has no function ncclGetVersion")?;
        let mut code = 0;
        // SAFETY: the function writes the one number that it is given.
        let result = unsafe { get(&raw mut code) };
        ensure!(
            result == SUCCESS,
            "it does not tell its version (error {result})"
        );
        let version = format!("{}.{}.{}", code / 10_000, code / 100 % 100, code % 100);
        ensure!(
            code >= OLDEST,
            "it is version {version}, and 2.18 or newer is needed"
        );
        let functions = Functions::find(&library)?;
        // It has threads of its own, whose code must not go away under them.
        std::mem::forget(library);
        Ok(Self { functions, version })
    }

    /// What an error code means, with NCCL's own last words.
    pub fn describe(&self, code: Code, comm: Comm) -> String {
        // SAFETY: both functions return a text that NCCL keeps, or null; a null communicator is allowed.
        let texts = unsafe {
            [
                (self.functions.error_string)(code),
                (self.functions.last_error)(comm),
            ]
        };
        let texts = texts.into_iter().filter(|text| !text.is_null());
        // SAFETY: a text of C that is not null, and is copied at once.
        let texts = texts.map(|text| {
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .trim()
                .to_owned()
        });
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        texts.join(": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_lies_as_nccl_h_has_it() {
        assert_eq!(size_of::<Config>(), 48);
        assert_eq!(std::mem::offset_of!(Config, blocking), 16);
        assert_eq!(std::mem::offset_of!(Config, net_name), 32);
        assert_eq!(size_of::<UniqueId>(), 128);
    }
}
