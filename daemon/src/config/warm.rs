//! Which models of a provider are made ready when pawd starts.

use super::{fault::Faults, file, source::Source, value::model};

/// The most models of one provider.
const MOST: usize = 16;

pub(super) fn warm(source: &Source, provider: &file::Provider, faults: &mut Faults) -> Vec<String> {
    let Some(warm) = &provider.warm else {
        return Vec::new();
    };
    let named = match warm.get_ref() {
        file::Warm::Own(true) => vec![provider.model.get_ref().clone()],
        file::Warm::Own(false) => Vec::new(),
        file::Warm::Models(models) => models.clone(),
    };
    let good = |name: &String| model(name).is_ok();
    if named.len() > MOST || !named.iter().all(good) {
        let hint = format!("write true, or a list of at most {MOST} names of models");
        faults.at(source, warm.span(), "no models can be meant here", hint);
    }
    named
}
