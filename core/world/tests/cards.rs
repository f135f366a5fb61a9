//! Ranks that talk through NCCL, one for each card of this machine; skipped, and said so, where there is none.
#![cfg(unix)]

mod common;

use apus_world::launch;
use apus_world::nccl::Cards;
use apus_world::{Buffer, Collectives, DeviceBuffer, Element};
use common::{meet, program, ranks, this_rank};
use libloading::Library;
use std::ffi::{c_int, c_void};
use std::sync::atomic::AtomicUsize;

/// The few functions of the driver that these tests need.
struct Driver(Library);

impl Driver {
    /// The driver and its number of cards; none without one.
    fn open() -> Option<(Self, usize)> {
        // SAFETY: the initialisers of the driver's library are those that every CUDA program runs.
        let library = unsafe { Library::new("libcuda.so.1") }.ok()?;
        let driver = Self(library);
        let mut count: c_int = 0;
        // SAFETY: the types of both functions are those of cuda.h.
        let codes = unsafe {
            let init: unsafe extern "C" fn(u32) -> c_int = *driver.0.get(b"cuInit").ok()?;
            let get: unsafe extern "C" fn(*mut c_int) -> c_int =
                *driver.0.get(b"cuDeviceGetCount").ok()?;
            [init(0), get(&raw mut count)]
        };
        (codes == [0, 0] && count > 0).then_some((driver, count as usize))
    }

    /// Makes a card the current one of this thread.
    fn take(&self, card: usize) {
        let mut context: *mut c_void = std::ptr::null_mut();
        // SAFETY: the types are those of cuda.h; the primary context of a card that there is.
        let codes = unsafe {
            let retain: unsafe extern "C" fn(*mut *mut c_void, c_int) -> c_int =
                *self.0.get(b"cuDevicePrimaryCtxRetain").unwrap();
            let set: unsafe extern "C" fn(*mut c_void) -> c_int =
                *self.0.get(b"cuCtxSetCurrent").unwrap();
            [retain(&raw mut context, card as c_int), set(context)]
        };
        assert_eq!(codes, [0, 0]);
    }

    fn upload(&self, values: &[f32]) -> DeviceBuffer {
        let mut address = 0u64;
        // SAFETY: the types are those of cuda.h; as many bytes are copied as were allocated.
        let codes = unsafe {
            let alloc: unsafe extern "C" fn(*mut u64, usize) -> c_int =
                *self.0.get(b"cuMemAlloc_v2").unwrap();
            let copy: unsafe extern "C" fn(u64, *const c_void, usize) -> c_int =
                *self.0.get(b"cuMemcpyHtoD_v2").unwrap();
            let bytes = size_of_val(values);
            [
                alloc(&raw mut address, bytes),
                copy(address, values.as_ptr().cast(), bytes),
            ]
        };
        assert_eq!(codes, [0, 0]);
        DeviceBuffer {
            address,
            count: values.len(),
            element: Element::F32,
            stream: std::ptr::null_mut(),
        }
    }

    /// Waits for the card and copies its numbers.
    fn download(&self, buffer: DeviceBuffer) -> Vec<f32> {
        let mut values = vec![0f32; buffer.count];
        // SAFETY: the types are those of cuda.h; the buffer has as many numbers.
        let codes = unsafe {
            let wait: unsafe extern "C" fn() -> c_int = *self.0.get(b"cuCtxSynchronize").unwrap();
            let copy: unsafe extern "C" fn(*mut c_void, u64, usize) -> c_int =
                *self.0.get(b"cuMemcpyDtoH_v2").unwrap();
            [
                wait(),
                copy(values.as_mut_ptr().cast(), buffer.address, 4 * buffer.count),
            ]
        };
        assert_eq!(codes, [0, 0]);
        values
    }
}

/// The body of a rank; started by the other test.
#[test]
#[ignore = "a rank of the other test"]
fn a_rank() {
    let place = this_rank();
    let (driver, _) = Driver::open().unwrap();
    driver.take(place.local_rank);
    let control = meet(&place, 60);
    let cards = Cards::join(place.rank, place.size, |id| control.broadcast(id)).unwrap();
    let (rank, size) = (place.rank, place.size);

    let own: Vec<f32> = (0..1 << 20).map(|at| (at % 1000 + rank) as f32).collect();
    let buffer = driver.upload(&own);
    cards.sum(Buffer::Device(buffer)).unwrap();
    let offset = size * (size - 1) / 2;
    let sums = driver.download(buffer);
    assert!(
        sums.iter()
            .enumerate()
            .all(|(at, &sum)| sum == (size * (at % 1000) + offset) as f32)
    );

    let buffer = driver.upload(&[if rank == size - 1 { 5.0 } else { 0.0 }; 8]);
    cards.broadcast(Buffer::Device(buffer), size - 1).unwrap();
    assert_eq!(driver.download(buffer), [5.0; 8]);

    let (part, all) = (
        driver.upload(&[rank as f32; 4]),
        driver.upload(&vec![9.0; 4 * size]),
    );
    cards
        .gather(Buffer::Device(part), Buffer::Device(all))
        .unwrap();
    let expected: Vec<f32> = (0..size).flat_map(|rank| [rank as f32; 4]).collect();
    assert_eq!(driver.download(all), expected);
    cards.check().unwrap();
    assert!(cards.sum(Buffer::F32(&mut [0.0])).is_err());
    println!("{} rank {rank} of {size} done", cards.name());
    Box::new(cards).leave().unwrap();
    control.finish();
}

#[test]
fn cards_add_and_gather() {
    let Some((_, count)) = Driver::open() else {
        println!("skipped: this machine has no card");
        return;
    };
    if count < 2 {
        println!("skipped: this machine has one card");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = launch::cards(
        &program("", dir.path()),
        &ranks(count),
        &AtomicUsize::new(0),
    )
    .unwrap();
    for rank in 1..count {
        print!(
            "{}",
            std::fs::read_to_string(launch::output(dir.path(), rank)).unwrap_or_default()
        );
    }
    assert_eq!(status, 0);
}
