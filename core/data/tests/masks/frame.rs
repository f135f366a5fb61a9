//! What is trained of the frame around an answer: its header and the token that ends it.

use crate::support::*;

#[test]
fn every_answer_with_its_stop_token() {
    assert_eq!(
        marks(&two_turns(), "default"),
        "<|start|>user<|message|>a<|end|><|start|>assistant[[<|channel|>final<|message|>b]]\
         [[<|end|>]](<|return|>)<|start|>user<|message|>c<|end|><|start|>assistant[[<|channel|>analysis<|message|>t<|end|>\
         <|start|>assistant<|channel|>final<|message|>d<|return|>]]"
    );
    let header_off = marks_with(&two_turns(), "default", TrainHeader::None);
    assert!(
        header_off.contains("<|channel|>analysis<|message|>[[t<|end|>]]<|start|>assistant"),
        "{header_off}"
    );
    let header_full = marks_with(&two_turns(), "default", TrainHeader::Full);
    assert!(
        header_full.contains(
            "<|end|>[[<|start|>assistant<|channel|>final<|message|>b]][[<|end|>]](<|return|>)"
        ),
        "{header_full}"
    );
}

#[test]
fn the_stop_token_of_an_earlier_answer_is_a_choice() {
    let stop = |stop| marks_as(&two_turns(), "default", (TrainHeader::AfterPrompt, stop));
    let end = stop(TrainStop::AsRendered);
    assert!(
        end.contains("final<|message|>b<|end|>]]<|start|>user"),
        "{end}"
    );
    let none = stop(TrainStop::None);
    assert!(
        none.contains("final<|message|>b]]<|end|><|start|>user"),
        "{none}"
    );
    let header = (TrainHeader::None, TrainStop::AsGenerated);
    let bare = marks_as(&two_turns(), "default", header);
    assert!(
        bare.contains("<|message|>[[b]][[<|end|>]](<|return|>)"),
        "{bare}"
    );
    for stop in [
        TrainStop::AsGenerated,
        TrainStop::AsRendered,
        TrainStop::None,
    ] {
        let encode = |template| {
            let encoder = encoder_with(
                template,
                chain("", "default"),
                (TrainHeader::AfterPrompt, stop),
            );
            encoder.encode(&sample(&two_turns())).unwrap()
        };
        let rendered = encode(Harmony::native());
        let relabelled = rendered.input_ids.iter().zip(&rendered.labels);
        let relabelled =
            relabelled.filter(|(id, label)| **label >= 0 && **label != i64::from(**id));
        let expected = usize::from(stop == TrainStop::AsGenerated);
        assert_eq!(relabelled.count(), expected, "{stop:?}");
    }
    assert_eq!("end".parse::<TrainStop>().unwrap(), TrainStop::AsRendered);
    assert!("stop".parse::<TrainStop>().is_err() && "some".parse::<TrainHeader>().is_err());
}

#[test]
fn the_last_round_and_everything() {
    let last = marks(&two_turns(), "last_round");
    assert!(
        last.contains("assistant<|channel|>final<|message|>b<|end|>"),
        "{last}"
    );
    assert!(last.ends_with("d<|return|>]]"), "{last}");
    let encoder = encoder(
        Harmony::native(),
        chain("", "all"),
        TrainHeader::AfterPrompt,
    );
    let all = encoder.encode(&sample(&two_turns())).unwrap();
    assert!(all.weights.iter().all(|weight| *weight == 1.0));
    assert_eq!(all.targets(), all.len() - 1);
}
