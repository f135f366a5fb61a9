//! A random generator of a dozen lines (splitmix64, Steele et al. 2014), so that the corpus is the same
//! on every machine and with every version of every crate.

/// A stream of random numbers that depends on nothing but its seed.
pub struct Random(u64);

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number in `0..n`; `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of the items; `items` must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Shuffles in place (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Normally distributed numbers of mean 0 and this deviation (Box and Muller, 1958).
    pub fn normals(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        const STEPS: usize = 1 << 53;
        let normal = |_| {
            let radius = (1 + self.below(STEPS)) as f64 / STEPS as f64;
            let turn = self.below(STEPS) as f64 / STEPS as f64;
            ((-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos() * deviation) as f32
        };
        (0..count).map(normal).collect()
    }
}
