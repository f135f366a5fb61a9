//! The adapters that requests name, and their numbers among the updates of rows.
//!
//! An adapter that is unloaded takes no new requests; those that run on it finish first, and then its memory is given back. Another
//! one may have its name at once.

use super::cache::Identity;
use crate::tuners::OpenedAdapter;
use anyhow::{Context, Result, bail, ensure};
use apus_model::model::{CausalLm, OwnUpdates, UpdateSet};
use apus_model::nn::RowUpdates;
use apus_model::ops::lora::NO_UPDATE;
use std::path::Path;

/// The model's own updates and those of the adapters that are loaded.
pub struct Adapters {
    /// The place of the model's own comes first; other places may be empty.
    places: Vec<Option<Place>>,
    /// What the model has of its own that rows cannot do without.
    always: Option<&'static str>,
    /// The updates of all places for a step, if there are any.
    stacked: Option<RowUpdates>,
    next: Identity,
}

struct Place {
    name: Option<String>,
    identity: Identity,
    updates: Option<UpdateSet>,
    /// Requests that name it and have not ended.
    requests: usize,
    is_leaving: bool,
}

/// A request's adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterRef {
    place: usize,
    /// What is computed with it is different from what is computed with any other.
    pub identity: Identity,
}

impl Adapters {
    pub fn new(model: &CausalLm) -> Result<Self> {
        let (updates, always) = match model.own_updates()? {
            OwnUpdates::None => (None, None),
            OwnUpdates::Rows(updates) => (Some(updates), None),
            OwnUpdates::Always(what) => (None, Some(what)),
        };
        let own = Place {
            name: None,
            identity: 0,
            updates,
            requests: 0,
            is_leaving: false,
        };
        let mut adapters = Self {
            places: vec![Some(own)],
            always,
            stacked: None,
            next: 1,
        };
        adapters.stack(model)?;
        Ok(adapters)
    }

    fn stack(&mut self, model: &CausalLm) -> Result<()> {
        let updates = self.places.iter();
        let updates = updates.map(|place| place.as_ref().and_then(|place| place.updates.as_ref()));
        let updates: Vec<Option<&UpdateSet>> = updates.collect();
        // What was stacked before is not needed any more.
        self.stacked = None;
        if updates.iter().any(Option::is_some) {
            self.stacked = Some(model.stacked(&updates)?);
        }
        Ok(())
    }

    /// Opens an adapter under a name.
    pub fn load(&mut self, model: &CausalLm, name: &str, dir: &Path) -> Result<()> {
        let place = || format!("adapter `{name}`, {}", dir.display());
        ensure!(
            self.place_of(name).is_none(),
            "adapter `{name}` is loaded already; unload it first"
        );
        if let Some(what) = self.always {
            bail!(
                "adapter `{name}`: the model that is loaded has {what}, which cannot share a batch with adapters by name; load \
                 its base alone"
            );
        }
        let is_model =
            dir.join("config.json").is_file() && !dir.join("adapter_config.json").is_file();
        ensure!(
            !is_model,
            "{}: it is a whole model, which cannot share a batch with other adapters; it can answer alone, given by --model",
            place()
        );
        let adapter = OpenedAdapter::open(dir, model.config()).with_context(place)?;
        let updates = adapter.update_set().with_context(place)?;
        let added = Place {
            name: Some(name.to_owned()),
            identity: self.next,
            updates: Some(updates),
            requests: 0,
            is_leaving: false,
        };
        let empty = self.places.iter().position(Option::is_none);
        let at = empty.unwrap_or(self.places.len());
        match empty {
            Some(at) => self.places[at] = Some(added),
            None => self.places.push(Some(added)),
        }
        if let Err(error) = self.stack(model) {
            self.places[at] = None;
            self.stack(model)?;
            return Err(error.context(place()));
        }
        self.next += 1;
        Ok(())
    }

    /// Gives the model without what was trained a name, as if it were an adapter.
    pub fn name_base(&mut self, model: &CausalLm, name: &str) -> Result<()> {
        if let Some(what) = self.always {
            bail!("the model has {what}, without which it cannot answer");
        }
        self.places.push(Some(Place {
            name: Some(name.to_owned()),
            identity: self.next,
            updates: None,
            requests: 0,
            is_leaving: false,
        }));
        self.next += 1;
        self.stack(model)
    }

    /// Takes an adapter away once no request runs on it.
    pub fn unload(&mut self, model: &CausalLm, name: &str) -> Result<()> {
        let Some(at) = self.place_of(name) else {
            bail!("{}", self.unknown(name));
        };
        if let Some(place) = &mut self.places[at] {
            place.is_leaving = true;
        }
        self.leave(model, at)
    }

    fn leave(&mut self, model: &CausalLm, at: usize) -> Result<()> {
        let gone = |place: &Place| place.is_leaving && place.requests == 0;
        if !self.places[at].as_ref().is_some_and(gone) {
            return Ok(());
        }
        self.places[at] = None;
        while matches!(self.places.last(), Some(None)) {
            self.places.pop();
        }
        self.stack(model)
    }

    fn place_of(&self, name: &str) -> Option<usize> {
        let named = |place: &Place| !place.is_leaving && place.name.as_deref() == Some(name);
        let mut places = self.places.iter();
        places.position(|place| place.as_ref().is_some_and(named))
    }

    fn unknown(&self, name: &str) -> String {
        match self.names() {
            names if names.is_empty() => {
                format!("adapter `{name}` is not loaded, and no other is")
            }
            names => format!(
                "adapter `{name}` is not loaded, those that are: {}",
                names.join(", ")
            ),
        }
    }

    /// The names that requests can give.
    pub fn names(&self) -> Vec<String> {
        let places = self
            .places
            .iter()
            .flatten()
            .filter(|place| !place.is_leaving);
        places.filter_map(|place| place.name.clone()).collect()
    }

    /// A request begins to use an adapter, or the model as it is loaded.
    pub fn enter(&mut self, name: Option<&str>) -> Result<AdapterRef> {
        let at = match name {
            None => 0,
            Some(name) => match self.place_of(name) {
                Some(at) => at,
                None => bail!("{}", self.unknown(name)),
            },
        };
        let place = self.places[at].as_mut().context("the adapter is gone")?;
        place.requests += 1;
        Ok(AdapterRef {
            place: at,
            identity: place.identity,
        })
    }

    /// The request has ended.
    pub fn exit(&mut self, model: &CausalLm, adapter: AdapterRef) -> Result<()> {
        if let Some(place) = &mut self.places[adapter.place] {
            place.requests = place.requests.saturating_sub(1);
        }
        self.leave(model, adapter.place)
    }

    /// The number of an adapter in the updates of rows.
    pub fn number(&self, adapter: AdapterRef) -> u32 {
        let place = self.places.get(adapter.place).and_then(Option::as_ref);
        match place.is_some_and(|place| place.updates.is_some()) {
            true => adapter.place as u32,
            false => NO_UPDATE,
        }
    }

    /// The updates of rows; `None` where all rows have what the model has.
    pub fn updates(&self) -> Option<&RowUpdates> {
        self.stacked.as_ref()
    }

    /// Reads the model's own updates again, which have changed.
    pub fn refresh(&mut self, model: &CausalLm) -> Result<()> {
        if let (Some(Some(own)), OwnUpdates::Rows(updates)) =
            (self.places.first_mut(), model.own_updates()?)
        {
            own.updates = Some(updates);
        }
        self.stack(model)
    }
}
