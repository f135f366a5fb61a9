//! Low-rank updates by row.

use crate::support::{CHAINED, agree, card, same};
use apus_model::ops::lora::{self, NO_UPDATE, RowFactors};
use apus_model::ops::router::{self, RoutePlan};
use candle_core::{Device, Tensor};

#[test]
fn rows_have_the_update_that_they_name_and_the_same_bits_alone() {
    let Some(card) = card() else { return };
    for (n, i, o, rank, groups) in [
        (1, 2880, 5120, 8, 1),
        (37, 64, 136, 24, 5),
        (130, 160, 72, 64, 3),
    ] {
        let (x, y) = (card.normal(1, &[n, i], 1.0), card.normal(2, &[n, o], 1.0));
        let (a, b) = (
            card.normal(3, &[groups, rank, i], 0.1),
            card.normal(4, &[groups, o, rank], 0.1),
        );
        let index: Vec<u32> = (0..n as u32)
            .map(|row| row * 7 % (groups as u32 + 1))
            .collect();
        let index: Vec<u32> = index
            .iter()
            .map(|&at| if at == groups as u32 { NO_UPDATE } else { at })
            .collect();
        let index = Tensor::new(index.as_slice(), &Device::Cpu).unwrap();
        let (on, off) = (
            RowFactors { a: a.gpu, b: b.gpu },
            RowFactors { a: a.cpu, b: b.cpu },
        );
        let copy = |y: &Tensor| y.copy().unwrap();
        let found = lora::add_rows(copy(&y.gpu), &x.gpu, &card.up(&index), &on).unwrap();
        let expected = lora::add_rows(y.cpu, &x.cpu, &index, &off).unwrap();
        agree(
            &format!("updates of {n} rows, rank {rank}"),
            &found,
            &expected,
            CHAINED,
        );
        let part = |t: &Tensor| t.narrow(0, n - 1, 1).unwrap().copy().unwrap();
        let alone =
            lora::add_rows(part(&y.gpu), &part(&x.gpu), &card.up(&part(&index)), &on).unwrap();
        same("a row alone", &alone, &part(&found));
    }
}

#[test]
fn rows_of_experts_by_adapter_and_expert() {
    let Some(card) = card() else { return };
    let logits = card.normal_f32(1, &[300, 32], 1.0).cpu;
    let ids = router::top_k(&logits, 4).unwrap();
    let adapters: Vec<u32> = (0..300u32)
        .map(|t| if t % 5 == 4 { NO_UPDATE } else { t % 5 })
        .collect();
    let adapters = Tensor::new(adapters.as_slice(), &Device::Cpu).unwrap();
    let plan = RoutePlan::new(&ids, 32).unwrap();
    let expected = lora::rows::of_experts(&adapters, &plan).unwrap();
    let plan = RoutePlan::new(&card.up(&ids), 32).unwrap();
    let found = lora::rows::of_experts(&card.up(&adapters), &plan).unwrap();
    same("updates of experts' rows", &found, &expected);
}
