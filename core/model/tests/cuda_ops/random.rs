//! Counter-based random numbers: the same on both devices.

use crate::support::{card, same, values};
use apus_model::ops::dropout::Draws;
use apus_model::ops::{SeqLayout, dropout, fill};
use candle_core::{DType, Device};

const COUNT: usize = 100_003;

#[test]
fn normal_numbers() {
    let Some(card) = card() else { return };
    let draw =
        |dtype, device: &Device| values(&fill::normal(COUNT, 0.7, (42, 7), dtype, device).unwrap());
    let (found, expected) = (
        draw(DType::F32, &card.device),
        draw(DType::F32, &Device::Cpu),
    );
    // The last bit of sine and logarithm may differ in f64, and with it, rarely, the last bit of f32.
    let pairs = || found.iter().zip(&expected);
    assert!(pairs().all(|(f, e)| (f - e).abs() <= 2e-7 * e.abs()));
    let unequal = pairs().filter(|(f, e)| f != e).count();
    println!("normal f32: {unequal} of {COUNT} differ in the last bit");
    assert!(unequal <= 10, "{unequal} differ");
    let (found, expected) = (
        draw(DType::BF16, &card.device),
        draw(DType::BF16, &Device::Cpu),
    );
    let unequal = found.iter().zip(&expected).filter(|(f, e)| f != e).count();
    assert!(unequal <= 2, "bf16: {unequal} differ");
}

#[test]
fn uniform_numbers_and_bytes() {
    let Some(card) = card() else { return };
    let draw = |device: &Device| fill::uniform(COUNT, (-0.3, 0.9), (42, 7), device).unwrap();
    same("uniform", &draw(&card.device), &draw(&Device::Cpu));
    for range in [(0, 256), (120, 9), (3, 1)] {
        let draw = |device: &Device| fill::bytes(COUNT, range, (42, 7), device).unwrap();
        same("bytes", &draw(&card.device), &draw(&Device::Cpu));
    }
}

#[test]
fn dropout_masks() {
    let Some(card) = card() else { return };
    for (p, width) in [(0.0, 101), (0.05, 101), (0.25, 128), (0.9, 2880)] {
        let seqs = SeqLayout::new(&[300, 1, 699], &Device::Cpu).unwrap();
        let draws = |device: &Device| Draws::new(1 << 40, &seqs, device).unwrap();
        let (on_card, on_cpu) = (draws(&card.device), draws(&Device::Cpu));
        let x = card.normal(1, &[1000, width], 1.0);
        let y = dropout::apply(&x.gpu, p, &on_card).unwrap();
        let expected = dropout::apply(&x.cpu, p, &on_cpu).unwrap();
        let expected = expected.to_dtype(DType::BF16).unwrap();
        same(&format!("dropout {p} bf16"), &y, &expected);
        let x = card.normal_f32(1, &[1000, width], 1.0);
        let y = dropout::apply(&x.gpu, p, &on_card).unwrap();
        let expected = dropout::apply(&x.cpu, p, &on_cpu).unwrap();
        same(&format!("dropout {p} f32"), &y, &expected);
    }
}
