//! Who holds which page of a pool, and which pages nobody holds but a prompt may share.
//!
//! A page that is full can be named by what is in it. When its last holder lets go of it, a page with a name stays as it is until
//! it is held again by that name, or is the one that was let go of longest ago when a page is needed.

use std::collections::{BTreeSet, HashMap};

/// The name of a full page: a hash of its tokens, all tokens before them, and the adapter.
pub type PageName = [u8; 16];

/// The pages of one kind of layers.
#[derive(Debug)]
pub struct Pages {
    pages: Vec<Page>,
    /// Pages without a name that nobody holds.
    free: Vec<u32>,
    /// Pages with a name that nobody holds, the one that was let go of longest ago first.
    idle: BTreeSet<(u64, u32)>,
    by_name: HashMap<PageName, u32>,
    clock: u64,
}

#[derive(Debug, Clone, Default)]
struct Page {
    holders: u32,
    name: Option<PageName>,
    /// When it was let go of.
    idle_since: u64,
}

impl Pages {
    /// So many pages, which nobody holds.
    pub fn new(count: usize) -> Self {
        Self {
            pages: vec![Page::default(); count],
            free: (0..count as u32).rev().collect(),
            idle: BTreeSet::new(),
            by_name: HashMap::new(),
            clock: 0,
        }
    }

    /// All pages.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// Pages that can be taken.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Pages with a name that nobody holds.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// A page for new content, if one can be taken.
    pub fn take(&mut self) -> Option<u32> {
        let page = match self.free.pop() {
            Some(page) => page,
            None => {
                let (_, page) = self.idle.pop_first()?;
                self.forget(page);
                page
            }
        };
        self.pages[page as usize].holders = 1;
        Some(page)
    }

    /// One more holder of the page of this name, if there is one.
    pub fn hold(&mut self, name: &PageName) -> Option<u32> {
        let page = *self.by_name.get(name)?;
        let held = &mut self.pages[page as usize];
        if held.holders == 0 {
            self.idle.remove(&(held.idle_since, page));
        }
        held.holders += 1;
        Some(page)
    }

    /// Whether there is a page of this name.
    pub fn has(&self, name: &PageName) -> bool {
        self.by_name.contains_key(name)
    }

    /// Names a page that is held and full, unless another has that name.
    pub fn name(&mut self, page: u32, name: PageName) {
        if !self.by_name.contains_key(&name) && self.pages[page as usize].name.is_none() {
            self.by_name.insert(name, page);
            self.pages[page as usize].name = Some(name);
        }
    }

    /// One holder less.
    pub fn release(&mut self, page: u32) {
        let held = &mut self.pages[page as usize];
        held.holders = held.holders.saturating_sub(1);
        if held.holders > 0 {
            return;
        }
        match held.name {
            None => self.free.push(page),
            Some(_) => {
                self.clock += 1;
                held.idle_since = self.clock;
                self.idle.insert((self.clock, page));
            }
        }
    }

    /// Forgets what is in the pages that nobody holds.
    pub fn clear(&mut self) {
        for (_, page) in std::mem::take(&mut self.idle) {
            self.forget(page);
            self.free.push(page);
        }
    }

    fn forget(&mut self, page: u32) {
        if let Some(name) = self.pages[page as usize].name.take() {
            self.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_pages_stay_until_they_are_needed_and_the_oldest_go_first() {
        let mut pages = Pages::new(3);
        let [a, b, c] = [1u8, 2, 3].map(|n| {
            let page = pages.take().unwrap();
            pages.name(page, [n; 16]);
            page
        });
        assert_eq!((pages.take(), pages.available()), (None, 0));
        for page in [b, a, c] {
            pages.release(page);
        }
        assert_eq!((pages.available(), pages.idle()), (3, 3));
        // Held again, it is not the oldest any more.
        assert_eq!(pages.hold(&[2; 16]), Some(b));
        assert_eq!(pages.hold(&[2; 16]), Some(b));
        assert_eq!(pages.take(), Some(a));
        assert_eq!(pages.hold(&[1; 16]), None);
        pages.release(b);
        assert_eq!(pages.available(), 1);
        pages.release(b);
        pages.release(a);
        assert_eq!((pages.available(), pages.idle()), (3, 2));
        pages.clear();
        assert_eq!(
            (pages.available(), pages.idle(), pages.has(&[2; 16])),
            (3, 0, false)
        );
    }

    #[test]
    fn a_second_page_of_a_name_is_free_when_it_is_let_go_of() {
        let mut pages = Pages::new(2);
        let [a, b] = [0, 1].map(|_| pages.take().unwrap());
        pages.name(a, [7; 16]);
        pages.name(b, [7; 16]);
        pages.release(a);
        pages.release(b);
        assert_eq!((pages.idle(), pages.available()), (1, 2));
    }
}
