//! The pages of all kinds of layers: a sequence takes pages as it grows, gives back those that a sliding window has passed, and
//! shares those that others have computed of the same beginning.

use super::pages::{PageName, Pages};
use apus_model::nn::{CacheKind, PagedCache};
use apus_model::ops::paged::{HostLayout, PAGE};
use sha2::{Digest, Sha256};

/// The pools and who holds their pages.
pub struct Cache {
    pools: PagedCache,
    kinds: Vec<(Option<usize>, Pages)>,
}

/// The pages that a sequence holds, for each kind of layers.
#[derive(Debug, Default)]
pub struct Held {
    tables: Vec<Table>,
    /// The names of its full pages from the first on, as far as they were needed.
    names: Vec<PageName>,
    /// Pages that have been named in the pools.
    named: usize,
}

#[derive(Debug, Default, Clone)]
struct Table {
    pages: Vec<u32>,
    /// The first page that is still held.
    first: usize,
}

/// What fixes the keys and values of a sequence besides its tokens: the adapter.
pub type Identity = u64;

impl Cache {
    pub fn new(pools: PagedCache, pages: &[usize]) -> Self {
        let kinds = pools.kinds().iter().zip(pages);
        let kinds = kinds.map(|(kind, &count)| (kind.window, Pages::new(count)));
        Self {
            kinds: kinds.collect(),
            pools,
        }
    }

    pub fn pools(&self) -> &PagedCache {
        &self.pools
    }

    /// The pages of every kind.
    pub fn pages(&self) -> impl Iterator<Item = &Pages> {
        self.kinds.iter().map(|(_, pages)| pages)
    }

    /// Forgets what prompts could share.
    pub fn clear(&mut self) {
        self.kinds.iter_mut().for_each(|(_, pages)| pages.clear());
    }

    /// Lets a sequence that holds nothing share pages of the same beginning; returns how many of its tokens need not be computed,
    /// at most `most`, a multiple of `step` positions. A place in the sequence can be shared if there are all its pages that a
    /// query after it sees.
    pub fn share(
        &mut self,
        held: &mut Held,
        (tokens, identity): (&[u32], Identity),
        most: usize,
        step: usize,
    ) -> usize {
        let step = step.next_multiple_of(PAGE);
        held.extend_names(tokens, identity, most / PAGE);
        let whole = self.kinds.iter().filter(|(window, _)| window.is_none());
        let whole = whole.fold(&held.names[..most / PAGE], |names, (_, pages)| {
            let missing = names.iter().position(|name| !pages.has(name));
            &names[..missing.unwrap_or(names.len())]
        });
        let ends = (1..=whole.len() / (step / PAGE)).rev();
        let is_there = |end: &usize| {
            self.kinds.iter().all(|(window, pages)| {
                let mut needed = whole[first_seen(*window, end * PAGE)..*end].iter();
                window.is_none() || needed.all(|name| pages.has(name))
            })
        };
        let Some(end) = ends.map(|count| count * step / PAGE).find(is_there) else {
            return 0;
        };
        held.tables = vec![Table::default(); self.kinds.len()];
        for ((window, pages), table) in self.kinds.iter_mut().zip(&mut held.tables) {
            table.first = first_seen(*window, end * PAGE);
            table.pages = vec![0; table.first];
            let names = &held.names[table.first..end];
            table
                .pages
                .extend(names.iter().filter_map(|name| pages.hold(name)));
        }
        held.named = end;
        end * PAGE
    }

    /// Whether there are pages for the positions of a sequence up to `end`, and some to spare, which are two numbers: for layers that
    /// see everything, and for those with a window.
    pub fn has_room(&self, held: &Held, end: usize, spare: (usize, usize)) -> bool {
        self.kinds
            .iter()
            .enumerate()
            .all(|(kind, (window, pages))| {
                let table = held.tables.get(kind);
                let (there, first) = table.map_or((0, 0), |table| (table.pages.len(), table.first));
                let needed = match window {
                    None => end.div_ceil(PAGE).saturating_sub(there) + spare.0,
                    Some(window) => {
                        let most = (window / PAGE + 1).min(end.div_ceil(PAGE));
                        most.saturating_sub(there - first) + spare.1
                    }
                };
                needed <= pages.available()
            })
    }

    /// Takes pages for the positions of a sequence up to `end`; takes none if there are too few.
    pub fn reserve(&mut self, held: &mut Held, end: usize) -> bool {
        held.tables.resize(self.kinds.len(), Table::default());
        let needed = |table: &Table| end.div_ceil(PAGE).saturating_sub(table.pages.len());
        let mut kinds = self.kinds.iter_mut().zip(&mut held.tables);
        if !kinds.all(|((_, pages), table)| needed(table) <= pages.available()) {
            return false;
        }
        for ((_, pages), table) in self.kinds.iter_mut().zip(&mut held.tables) {
            let count = needed(table);
            table.pages.extend((0..count).filter_map(|_| pages.take()));
        }
        true
    }

    /// The first `computed` tokens of a sequence have been computed: of those its pages up to `nameable` positions can be shared
    /// from now on, and pages that no later query sees are given back.
    pub fn computed(
        &mut self,
        held: &mut Held,
        (tokens, identity): (&[u32], Identity),
        computed: usize,
        nameable: usize,
    ) {
        let full = computed.min(nameable) / PAGE;
        held.extend_names(tokens, identity, full);
        for ((window, pages), table) in self.kinds.iter_mut().zip(&mut held.tables) {
            let fresh = held.named.max(table.first).min(full)..full;
            for (page, name) in table.pages[fresh.clone()].iter().zip(&held.names[fresh]) {
                pages.name(*page, *name);
            }
            let first = first_seen(*window, computed).min(table.pages.len());
            if table.first < first {
                for page in &mut table.pages[table.first..first] {
                    pages.release(std::mem::take(page));
                }
                table.first = first;
            }
        }
        held.named = held.named.max(full);
    }

    /// Gives back everything that a sequence holds, the end first: beginnings are shared by more.
    pub fn release(&mut self, held: &mut Held) {
        for ((_, pages), table) in self.kinds.iter_mut().zip(&held.tables) {
            let held = table.pages[table.first..].iter().rev();
            held.for_each(|page| pages.release(*page));
        }
        held.tables.clear();
        held.named = 0;
    }

    /// Adds new tokens of a sequence to the layout of a kind of layers. Tables have so many entries.
    pub fn lay_out(
        &self,
        kind: usize,
        held: &Held,
        new: std::ops::Range<usize>,
        (layout, width): (&mut HostLayout, usize),
    ) {
        let table = &held.tables[kind].pages;
        for position in new.clone() {
            let row = table[position / PAGE] as usize * PAGE + position % PAGE;
            layout.positions.push(position as u32);
            layout.slots.push(row as u32);
        }
        layout.starts.push(layout.positions.len() as u32);
        layout.lengths.push(new.end as u32);
        let rest = std::iter::repeat_n(0, width - table.len().min(width));
        layout
            .pages
            .extend(table.iter().take(width).copied().chain(rest));
    }
}

impl Held {
    fn extend_names(&mut self, tokens: &[u32], identity: Identity, pages: usize) {
        for index in self.names.len()..pages {
            let mut hash = Sha256::new();
            match self.names.last() {
                Some(before) => hash.update(before),
                None => hash.update(identity.to_le_bytes()),
            }
            for token in &tokens[index * PAGE..(index + 1) * PAGE] {
                hash.update(token.to_le_bytes());
            }
            let mut name = PageName::default();
            name.copy_from_slice(&hash.finalize()[..16]);
            self.names.push(name);
        }
    }
}

/// The first page that the query at a position sees.
fn first_seen(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window) / PAGE)
}

/// How many pages of each kind make room for so many positions in layers that see everything: `batch` sequences at once, and steps
/// of `chunk` tokens of prompts. Layers with a window hold less for each sequence; a quarter of the positions is added for what
/// prompts share.
pub fn pages_for(
    kinds: &[CacheKind],
    positions: usize,
    (batch, chunk): (usize, usize),
) -> Vec<usize> {
    let all = positions.div_ceil(PAGE).max(1);
    let of_kind = |kind: &CacheKind| match kind.window {
        None => all,
        Some(window) => {
            let each = window.div_ceil(PAGE) + 2;
            let running = each
                .saturating_mul(batch)
                .saturating_add(chunk.div_ceil(PAGE) + 1);
            running.saturating_add(all / 4).min(all)
        }
    };
    kinds.iter().map(of_kind).collect()
}
