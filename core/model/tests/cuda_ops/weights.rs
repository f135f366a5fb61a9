//! Tensors of a mapped file on the card are those of the file, whatever their size and type.

use super::support::card;
use apus_model::weights::{Directory, WeightSource};
use candle_core::{DType, Device, Tensor};
use std::collections::HashMap;

/// More than all buffers of an upload together hold, and no multiple of anything.
const LARGE: usize = (150 << 20) + 12_345;

fn bytes(count: usize) -> Vec<u8> {
    (0..count)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

#[test]
fn files_arrive_as_they_are() {
    let Some(card) = card() else { return };
    let dir = tempfile::tempdir().unwrap();
    let large = Tensor::from_vec(bytes(LARGE), LARGE, &Device::Cpu).unwrap();
    let row = Tensor::arange(0f32, 1003.0, &Device::Cpu).unwrap();
    let mut tensors = HashMap::from([("large".to_owned(), large), ("f32".to_owned(), row.clone())]);
    for (name, dtype) in [("bf16", DType::BF16), ("f16", DType::F16)] {
        tensors.insert(name.to_owned(), row.to_dtype(dtype).unwrap());
    }
    candle_core::safetensors::save(&tensors, dir.path().join("model.safetensors")).unwrap();
    let source = Directory::open(dir.path()).unwrap();
    let on = |device: &Device, name: &str, dtype: DType| {
        let shape = tensors[name].dims();
        let tensor = source.tensor(name, shape, dtype, device).unwrap();
        tensor.to_device(&Device::Cpu).unwrap()
    };
    let found = on(&card.device, "large", DType::U8);
    let found = found.to_vec1::<u8>().unwrap();
    assert!(found == bytes(LARGE), "large");
    for name in ["f32", "bf16", "f16"] {
        for dtype in [DType::F32, DType::BF16] {
            let values = |device| {
                let tensor = on(device, name, dtype).to_dtype(DType::F32).unwrap();
                tensor.to_vec1::<f32>().unwrap()
            };
            assert_eq!(
                values(&card.device),
                values(&Device::Cpu),
                "{name} as {dtype:?}"
            );
        }
    }
    let transfer = source.done().unwrap();
    assert!(transfer.bytes > LARGE as u64 && !transfer.reading.is_zero());
}
