//! Why a card cannot be used: what was found, what is needed and what to do, in one line each.

use std::fmt;

/// The oldest driver that works, as the driver reports its version: the kernels are compiled by CUDA 13.
pub const LEAST_DRIVER: i32 = 13_000;
/// The lowest compute capability that works: 8.0 brought bf16 on tensor cores.
pub const LEAST_CAPABILITY: (i32, i32) = (8, 0);

const ON_THE_CPU: &str = "or run on the CPU with --device cpu";

/// The reason why this process cannot use a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// libcuda cannot be found.
    NoDriver,
    /// The driver supports this version of CUDA (13000 is 13.0).
    OldDriver(i32),
    /// The driver answers with this error, or lists no cards.
    NoCards(String),
    /// There is no card of this index.
    NoSuchCard {
        /// The index that was asked for.
        index: usize,
        /// The number of cards that there are.
        count: usize,
    },
    /// The compute capability of the card is too low.
    OldCard {
        /// The index that was asked for.
        index: usize,
        /// The name of the card.
        name: String,
        /// Its compute capability, major and minor.
        capability: (i32, i32),
    },
    /// A library of CUDA cannot be found.
    NoLibrary {
        /// The name of the library, such as cuBLAS.
        name: &'static str,
        /// The file that the loader looks for.
        file: &'static str,
    },
}

impl Obstacle {
    /// Checks the version of the driver.
    pub fn driver(version: i32) -> Option<Self> {
        (version < LEAST_DRIVER).then_some(Self::OldDriver(version))
    }

    /// Checks the index of a card against the number of cards.
    pub fn index(index: usize, count: usize) -> Option<Self> {
        match count {
            0 => Some(Self::NoCards("it lists none".to_owned())),
            _ => (index >= count).then_some(Self::NoSuchCard { index, count }),
        }
    }

    /// Checks the compute capability of a card.
    pub fn capability(index: usize, name: &str, capability: (i32, i32)) -> Option<Self> {
        (capability < LEAST_CAPABILITY).then(|| Self::OldCard {
            index,
            name: name.to_owned(),
            capability,
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => write!(
                f,
                "no NVIDIA driver answers (libcuda.so.1 is not found): install driver 580 or newer, start a container \
                 with --gpus all, {ON_THE_CPU}"
            ),
            Self::OldDriver(version) => write!(
                f,
                "the NVIDIA driver supports CUDA {}.{}, this apus needs 13.0: install driver 580 or newer, {ON_THE_CPU}",
                version / 1000,
                version % 1000 / 10
            ),
            Self::NoCards(reason) => write!(
                f,
                "the NVIDIA driver has no card to use ({reason}): look at nvidia-smi and CUDA_VISIBLE_DEVICES, {ON_THE_CPU}"
            ),
            Self::NoSuchCard { index, count } => {
                write!(f, "card {index} is not there: ")?;
                match count {
                    1 => write!(f, "there is one card, cuda:0")?,
                    _ => write!(f, "there are {count} cards, cuda:0 to cuda:{}", count - 1)?,
                }
                write!(f, "; CUDA_VISIBLE_DEVICES can hide others")
            }
            Self::OldCard {
                index,
                name,
                capability: (major, minor),
            } => write!(
                f,
                "card {index} ({name}) has compute capability {major}.{minor}, this apus needs {}.{} (Ampere) or newer: \
                 take another card with --device cuda:N, {ON_THE_CPU}",
                LEAST_CAPABILITY.0, LEAST_CAPABILITY.1
            ),
            Self::NoLibrary { name, file } => write!(
                f,
                "{name} is not there ({file} is not found): install the CUDA 13 runtime libraries, name their folder in \
                 LD_LIBRARY_PATH or that of the toolkit in CUDA_HOME, {ON_THE_CPU}"
            ),
        }
    }
}

impl std::error::Error for Obstacle {}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(obstacle: Option<Obstacle>) -> String {
        let text = obstacle.unwrap().to_string();
        assert!(!text.contains('\n'), "{text}");
        text
    }

    #[test]
    fn drivers() {
        assert_eq!(Obstacle::driver(13_000), None);
        assert_eq!(Obstacle::driver(13_020), None);
        let text = message(Obstacle::driver(12_080));
        assert!(
            text.starts_with("the NVIDIA driver supports CUDA 12.8, this apus needs 13.0"),
            "{text}"
        );
        assert!(message(Some(Obstacle::NoDriver)).contains("--device cpu"));
    }

    #[test]
    fn indices() {
        assert_eq!(Obstacle::index(0, 1), None);
        assert!(message(Obstacle::index(0, 0)).contains("CUDA_VISIBLE_DEVICES"));
        let one = message(Obstacle::index(3, 1));
        assert!(one.starts_with("card 3 is not there: there is one card, cuda:0"));
        assert!(message(Obstacle::index(8, 8)).contains("8 cards, cuda:0 to cuda:7"));
    }

    #[test]
    fn capabilities() {
        assert_eq!(Obstacle::capability(0, "A100", (8, 0)), None);
        assert_eq!(Obstacle::capability(0, "B200", (10, 0)), None);
        let text = message(Obstacle::capability(1, "Tesla T4", (7, 5)));
        assert!(text.contains("card 1 (Tesla T4) has compute capability 7.5, this apus needs 8.0"));
    }

    #[test]
    fn libraries() {
        let text = message(Some(Obstacle::NoLibrary {
            name: "cuBLAS",
            file: "libcublas.so.13",
        }));
        assert!(text.contains("libcublas.so.13") && text.contains("LD_LIBRARY_PATH"));
    }
}
