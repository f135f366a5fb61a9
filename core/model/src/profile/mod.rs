//! Measures how much time of a step each group of operations takes.
//!
//! A span says which group the work inside it belongs to. Each start and each end of a span takes a timestamp, and the
//! time between two timestamps belongs to the innermost span that is open then. On CUDA a timestamp is an event on the
//! stream of all work, so that it measures the card and nothing waits for it; on the CPU it comes from the clock. While
//! nothing is recorded, a span costs one relaxed load.
//!
//! A recording belongs to the thread that started it and sees only the spans of that thread.

mod clock;
mod group;

pub use group::OpGroup;

use anyhow::{Result, ensure};
use candle_core::Device;
use clock::{Clock, Timestamp};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The number of recordings of all threads that have not ended.
static RECORDINGS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// A span: work belongs to its group until it is dropped.
#[must_use = "a span ends when it is dropped"]
pub struct Span {
    open: bool,
    /// A span ends on the thread it began on.
    thread: PhantomData<*const ()>,
}

/// Begins a span of `group`; spans inside it count for their own groups.
#[inline]
pub fn span(group: OpGroup) -> Span {
    begin(group, false)
}

/// Begins a span of `group` that counts everything inside it, spans of other groups included. It is for work that
/// consists of operations which count for other groups elsewhere.
#[inline]
pub fn whole(group: OpGroup) -> Span {
    begin(group, true)
}

#[inline]
fn begin(group: OpGroup, whole: bool) -> Span {
    let open = RECORDINGS.load(Ordering::Relaxed) > 0 && with(|r| r.begin(group, whole));
    Span {
        open,
        thread: PhantomData,
    }
}

impl Drop for Span {
    #[inline]
    fn drop(&mut self) {
        if self.open {
            with(Recorder::end);
        }
    }
}

/// Runs `act` on this thread's recorder and returns whether there is one.
fn with(act: impl FnOnce(&mut Recorder)) -> bool {
    RECORDER.with_borrow_mut(|recorder| match recorder {
        Some(recorder) => {
            act(recorder);
            true
        }
        None => false,
    })
}

/// The timestamps of a recording.
struct Recorder {
    clock: Clock,
    /// Each timestamp, with the group that the time after it belongs to.
    marks: Vec<(Timestamp, Option<OpGroup>)>,
    /// The spans that are open: the group of each, and whether it counts the spans inside it, too.
    open: Vec<(OpGroup, bool)>,
    calls: [usize; OpGroup::ALL.len()],
    failed: Option<anyhow::Error>,
}

impl Recorder {
    fn begin(&mut self, group: OpGroup, whole: bool) {
        match self.open.last() {
            Some(&(outer, true)) => self.open.push((outer, true)),
            _ => {
                self.calls[group as usize] += 1;
                self.open.push((group, whole));
                self.mark();
            }
        }
    }

    fn end(&mut self) {
        let ended = self.open.pop();
        let kept_out = matches!(ended, Some((_, true))) && self.open.last() == ended.as_ref();
        if !kept_out {
            self.mark();
        }
    }

    fn mark(&mut self) {
        let group = self.open.last().map(|&(group, _)| group);
        match self.clock.mark() {
            Ok(mark) => self.marks.push((mark, group)),
            Err(error) => self.failed = self.failed.take().or(Some(error)),
        }
    }
}

/// A recording on this thread, which lasts until it is finished or dropped.
pub struct Recording(PhantomData<*const ()>);

impl Recording {
    /// Starts one for the work on a device.
    ///
    /// # Errors
    /// This thread records already, or the device failed.
    pub fn start(device: &Device) -> Result<Self> {
        let mut recorder = Recorder {
            clock: Clock::new(device)?,
            marks: Vec::new(),
            open: Vec::new(),
            calls: [0; OpGroup::ALL.len()],
            failed: None,
        };
        ensure!(
            RECORDER.with_borrow(Option::is_none),
            "this thread records a profile already"
        );
        recorder.mark();
        RECORDER.with_borrow_mut(|slot| *slot = Some(recorder));
        RECORDINGS.fetch_add(1, Ordering::Relaxed);
        Ok(Self(PhantomData))
    }

    /// Ends it and waits for the device.
    pub fn finish(self) -> Result<Profile> {
        let mut recorder = RECORDER.with_borrow_mut(Option::take);
        let Some(recorder) = &mut recorder else {
            anyhow::bail!("the recording of this thread has ended already");
        };
        recorder.mark();
        if let Some(error) = recorder.failed.take() {
            return Err(error.context("recording a profile"));
        }
        let mut profile = Profile {
            milliseconds: [0.0; OpGroup::ALL.len()],
            calls: recorder.calls,
            total: 0.0,
        };
        for pair in recorder.marks.windows(2) {
            let [(start, group), (end, _)] = pair else {
                continue;
            };
            let time = start.milliseconds_to(end)?;
            profile.total += time;
            if let Some(group) = group {
                profile.milliseconds[*group as usize] += time;
            }
        }
        Ok(profile)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        RECORDER.with_borrow_mut(Option::take);
        RECORDINGS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The time of each group.
#[derive(Debug, Clone)]
pub struct Profile {
    milliseconds: [f64; OpGroup::ALL.len()],
    calls: [usize; OpGroup::ALL.len()],
    /// From start to end of the recording, in milliseconds.
    pub total: f64,
}

impl Profile {
    /// Milliseconds that belong to a group.
    pub fn milliseconds(&self, group: OpGroup) -> f64 {
        self.milliseconds[group as usize]
    }

    /// Spans of a group.
    pub fn calls(&self, group: OpGroup) -> usize {
        self.calls[group as usize]
    }

    /// Milliseconds outside of all spans: work that no span covers, and idleness.
    pub fn other(&self) -> f64 {
        (self.total - self.milliseconds.iter().sum::<f64>()).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn work(milliseconds: u64) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }

    #[test]
    fn inner_spans_count_for_themselves_and_whole_ones_for_all_inside() {
        let recording = Recording::start(&Device::Cpu).unwrap();
        {
            let _experts = span(OpGroup::Experts);
            work(20);
            {
                let _dequantise = span(OpGroup::Dequantise);
                work(40);
            }
            work(20);
        }
        {
            let _lora = whole(OpGroup::Lora);
            {
                let _experts = span(OpGroup::Experts);
                work(30);
            }
            let _again = whole(OpGroup::Lora);
            work(10);
        }
        work(25);
        std::thread::spawn(|| drop(span(OpGroup::Rope)))
            .join()
            .unwrap();
        let profile = recording.finish().unwrap();

        let at_least = |found: f64, least: f64| assert!(found >= least, "{found} {profile:?}");
        at_least(profile.milliseconds(OpGroup::Experts), 40.0);
        at_least(profile.milliseconds(OpGroup::Dequantise), 40.0);
        at_least(profile.milliseconds(OpGroup::Lora), 40.0);
        at_least(profile.other(), 25.0);
        let sum: f64 = OpGroup::ALL.map(|g| profile.milliseconds(g)).iter().sum();
        assert!((sum + profile.other() - profile.total).abs() < 1e-6);
        let calls = [
            OpGroup::Experts,
            OpGroup::Dequantise,
            OpGroup::Lora,
            OpGroup::Rope,
        ];
        assert_eq!(calls.map(|group| profile.calls(group)), [1, 1, 1, 0]);
    }

    #[test]
    fn one_recording_at_a_time_and_none_left_behind() {
        drop(span(OpGroup::Rope));
        let recording = Recording::start(&Device::Cpu).unwrap();
        assert!(Recording::start(&Device::Cpu).is_err());
        drop(span(OpGroup::Rope));
        drop(recording);
        drop(span(OpGroup::Rope));
        let fresh = Recording::start(&Device::Cpu).unwrap().finish().unwrap();
        assert_eq!(fresh.calls(OpGroup::Rope), 0);
    }
}
