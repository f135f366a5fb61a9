//! Tuners across the boundary. What is known of layers and parameters crosses as JSON, tensors as handles.

use super::guard::guard;
use super::object::{Imported, check_by, component, crosses_by, imported_check, to_json};
use crate::{AddedParam, LayerInfo, Need, Options, Result, Tensor, Tuner, Wire, needs};
use abi_stable::StableAbi;
use abi_stable::std_types::{ROption, RSlice, RStr, RString, RVec};

/// A tuner's functions. A layer is a [`LayerInfo`] as JSON.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = TunerTableRef)))]
pub struct TunerTable {
    /// The parameters of a layer as JSON.
    pub parameters: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<RString>,
    /// The input of `(layer, x, params)`.
    pub input:
        unsafe extern "C" fn(*const (), RStr<'_>, &Tensor, RSlice<'_, Tensor>) -> Wire<Tensor>,
    /// The output of `(layer, x, y, params)`.
    pub output: unsafe extern "C" fn(
        *const (),
        RStr<'_>,
        &Tensor,
        &Tensor,
        RSlice<'_, Tensor>,
    ) -> Wire<Tensor>,
    /// The merged weight of `(layer, weight, params)`.
    pub merged_weight: unsafe extern "C" fn(
        *const (),
        RStr<'_>,
        &Tensor,
        RSlice<'_, Tensor>,
    ) -> Wire<ROption<Tensor>>,
    /// The merged bias of `(layer, bias, params)`.
    pub merged_bias:
        unsafe extern "C" fn(*const (), RStr<'_>, &Tensor, RSlice<'_, Tensor>) -> Wire<Tensor>,
    /// The layers that it is added to by itself.
    pub targets: unsafe extern "C" fn(*const ()) -> Wire<RVec<RString>>,
    /// The fields of PEFT's configuration as JSON.
    #[sabi(last_prefix_field)]
    pub peft_config: unsafe extern "C" fn(*const ()) -> Wire<RString>,
    /// See [`Tuner::check`]; since 1.1.
    pub check: unsafe extern "C" fn(*const (), RStr<'_>) -> Wire<()>,
    /// The initial values of `(layer, weight, drawn)`; since 1.1.
    pub initial: unsafe extern "C" fn(
        *const (),
        RStr<'_>,
        ROption<&Tensor>,
        RSlice<'_, Tensor>,
    ) -> Wire<RVec<Tensor>>,
    /// A and B of the low-rank update of `(layer, params)`, or nothing; since 1.1.
    pub low_rank_update:
        unsafe extern "C" fn(*const (), RStr<'_>, RSlice<'_, Tensor>) -> Wire<RVec<Tensor>>,
}

crosses_by!(TunerTable {
    parameters, input, output, merged_weight, merged_bias, targets, peft_config, check, initial, low_rank_update
} as TunerTableRef for dyn Tuner);

check_by!(dyn Tuner);

fn layer(json: RStr<'_>) -> Result<LayerInfo> {
    Ok(serde_json::from_str(json.as_str())?)
}

unsafe extern "C" fn parameters(this: *const (), json: RStr<'_>) -> Wire<RString> {
    guard(|| {
        // SAFETY: the host gives the object's own pointer, here and below.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        to_json(&tuner.parameters(&layer(json)?)?)
    })
}

unsafe extern "C" fn input(
    this: *const (),
    json: RStr<'_>,
    x: &Tensor,
    params: RSlice<'_, Tensor>,
) -> Wire<Tensor> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        tuner.input(&layer(json)?, x, params.as_slice())
    })
}

unsafe extern "C" fn output(
    this: *const (),
    json: RStr<'_>,
    x: &Tensor,
    y: &Tensor,
    params: RSlice<'_, Tensor>,
) -> Wire<Tensor> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        tuner.output(&layer(json)?, x, y, params.as_slice())
    })
}

unsafe extern "C" fn merged_weight(
    this: *const (),
    json: RStr<'_>,
    weight: &Tensor,
    params: RSlice<'_, Tensor>,
) -> Wire<ROption<Tensor>> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        let merged = tuner.merged_weight(&layer(json)?, weight, params.as_slice())?;
        Ok(merged.into())
    })
}

unsafe extern "C" fn merged_bias(
    this: *const (),
    json: RStr<'_>,
    bias: &Tensor,
    params: RSlice<'_, Tensor>,
) -> Wire<Tensor> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        tuner.merged_bias(&layer(json)?, bias, params.as_slice())
    })
}

unsafe extern "C" fn targets(this: *const ()) -> Wire<RVec<RString>> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        Ok(tuner.targets()?.into_iter().map(RString::from).collect())
    })
}

unsafe extern "C" fn peft_config(this: *const ()) -> Wire<RString> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        to_json(&tuner.peft_config()?)
    })
}

unsafe extern "C" fn initial(
    this: *const (),
    json: RStr<'_>,
    weight: ROption<&Tensor>,
    drawn: RSlice<'_, Tensor>,
) -> Wire<RVec<Tensor>> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        needs::require(Need::Initial)?;
        let values = tuner.initial(&layer(json)?, weight.into_option(), drawn.as_slice())?;
        Ok(values.into())
    })
}

unsafe extern "C" fn low_rank_update(
    this: *const (),
    json: RStr<'_>,
    params: RSlice<'_, Tensor>,
) -> Wire<RVec<Tensor>> {
    guard(|| {
        // SAFETY: as above.
        let tuner = unsafe { component::<dyn Tuner>(this) };
        let update = tuner.low_rank_update(&layer(json)?, params.as_slice())?;
        Ok(update.into_iter().flatten().collect())
    })
}

impl Tuner for Imported<TunerTableRef> {
    imported_check!();

    fn parameters(&self, layer: &LayerInfo) -> Result<Vec<AddedParam>> {
        let (this, call) = (self.object.this(), self.object.table().parameters());
        let json = to_json(layer)?;
        // SAFETY: pointer and table belong together, and what is given outlives the call; here and below.
        let found = self
            .origin
            .context("parameters", unsafe { call(this, json.as_rstr()) })?;
        let read = serde_json::from_str(&found);
        read.map_err(|error| self.origin.failed("parameters", &error))
    }

    fn initial(
        &self,
        layer: &LayerInfo,
        weight: Option<&Tensor>,
        drawn: &[Tensor],
    ) -> Result<Vec<Tensor>> {
        let Some(call) = self.object.table().initial() else {
            return Ok(drawn.to_vec());
        };
        let json = to_json(layer)?;
        // SAFETY: as above.
        let wire = unsafe {
            call(
                self.object.this(),
                json.as_rstr(),
                weight.into(),
                drawn.into(),
            )
        };
        Ok(self.origin.context("initial", wire)?.into_vec())
    }

    fn input(&self, layer: &LayerInfo, x: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let (this, call) = (self.object.this(), self.object.table().input());
        let json = to_json(layer)?;
        // SAFETY: as above.
        let wire = unsafe { call(this, json.as_rstr(), x, params.into()) };
        self.origin.context("input", wire)
    }

    fn output(
        &self,
        layer: &LayerInfo,
        x: &Tensor,
        y: &Tensor,
        params: &[Tensor],
    ) -> Result<Tensor> {
        let (this, call) = (self.object.this(), self.object.table().output());
        let json = to_json(layer)?;
        // SAFETY: as above.
        let wire = unsafe { call(this, json.as_rstr(), x, y, params.into()) };
        self.origin.context("output", wire)
    }

    fn merged_weight(
        &self,
        layer: &LayerInfo,
        weight: &Tensor,
        params: &[Tensor],
    ) -> Result<Option<Tensor>> {
        let (this, call) = (self.object.this(), self.object.table().merged_weight());
        let json = to_json(layer)?;
        // SAFETY: as above.
        let wire = unsafe { call(this, json.as_rstr(), weight, params.into()) };
        Ok(self.origin.context("merged_weight", wire)?.into_option())
    }

    fn merged_bias(&self, layer: &LayerInfo, bias: &Tensor, params: &[Tensor]) -> Result<Tensor> {
        let (this, call) = (self.object.this(), self.object.table().merged_bias());
        let json = to_json(layer)?;
        // SAFETY: as above.
        let wire = unsafe { call(this, json.as_rstr(), bias, params.into()) };
        self.origin.context("merged_bias", wire)
    }

    fn low_rank_update(&self, layer: &LayerInfo, params: &[Tensor]) -> Result<Option<[Tensor; 2]>> {
        let Some(call) = self.object.table().low_rank_update() else {
            return Ok(None);
        };
        let json = to_json(layer)?;
        // SAFETY: as above.
        let wire = unsafe { call(self.object.this(), json.as_rstr(), params.into()) };
        let found = self.origin.context("low_rank_update", wire)?.into_vec();
        if found.is_empty() {
            return Ok(None);
        }
        let pair = <[Tensor; 2]>::try_from(found);
        pair.map(Some).map_err(|found| {
            let said = format!("it gave {} tensors, expected A and B", found.len());
            self.origin.failed("low_rank_update", &said)
        })
    }

    fn targets(&self) -> Result<Vec<String>> {
        let (this, call) = (self.object.this(), self.object.table().targets());
        // SAFETY: as above.
        let names = self.origin.context("targets", unsafe { call(this) })?;
        Ok(names.into_iter().map(RString::into_string).collect())
    }

    fn peft_config(&self) -> Result<Options> {
        let (this, call) = (self.object.this(), self.object.table().peft_config());
        // SAFETY: as above.
        let json = self.origin.context("peft_config", unsafe { call(this) })?;
        let read = serde_json::from_str(&json);
        read.map_err(|error| self.origin.failed("peft_config", &error))
    }
}
