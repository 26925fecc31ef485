//! What a container is, by its labels and by those of its image: who belongs to a Compose service.
//!
//! Compose labels the containers that it makes, and newer versions the images that they build. `docker run` hands an image's
//! labels on: a debug shell of such an image looks like a replica, and so does what was committed from a container. Compose's
//! labels count unless they come from the image: if that has none of Compose, or if the container has a config-hash of its
//! own. Where the image cannot be read, and until it is, having a config-hash decides.
//!
//! An image is read once. A container of before the first list is not counted as looked through before its image is, or
//! its names would change for a moment at each start of the agent.

use std::{collections::BTreeSet, sync::Arc};

use super::{Containers, Entry, Identity, Inspected, NetworkMode, Wish};
use crate::{
    model::ShortId,
    watch::{
        facts::ImageFacts,
        labels,
        metadata::{COMPOSE_HASH, COMPOSE_KEYS, Metadata},
    },
};

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// It was asked for.
    Asked,
    /// It cannot be read.
    Unreadable,
    /// It was read.
    Known(ImageFacts),
}

/// Takes from an inspect what a container is, rather than what it is doing.
pub(super) fn config_of(options: &labels::Options, entry: &mut Entry, inspected: &Inspected, member: bool) {
    let mut published: BTreeSet<_> = inspected.requested.iter().map(|request| (request.port, request.proto)).collect();
    published.extend(inspected.bindings.iter().map(|binding| (binding.port, binding.proto)));
    let ports: BTreeSet<_> = published.union(&inspected.exposed).copied().collect();
    // Where a network is not its own, a port is open without being published.
    let borrowed = matches!(inspected.network_mode, NetworkMode::Host | NetworkMode::Container(_));
    let published = if borrowed { &ports } else { &published };
    let Inspected { name, image, metadata, .. } = inspected;
    let subject = labels::Subject { name, image, metadata, ports: &ports, published, member };
    let place = format!("container {} ({name})", inspected.id.short());
    (entry.claim, entry.problems) = labels::read(options, &place, subject);
    entry.identity = Some(Identity { name: inspected.name.clone(), namespace: entry.claim.namespace.clone() });
}

/// Whether Compose's labels of a container are its own.
fn is_member(metadata: &Metadata, image: &Image) -> bool {
    let hash = metadata.engine(COMPOSE_HASH);
    match image {
        Image::Known(facts) => !facts.composed || hash.is_some_and(|hash| facts.hash.as_deref() != Some(hash)),
        Image::Asked | Image::Unreadable => hash.is_some(),
    }
}

/// Whether it has labels of Compose, wherever they come from.
fn is_composed(metadata: &Metadata) -> bool {
    COMPOSE_KEYS.iter().any(|key| metadata.engine(key).is_some())
}

impl Containers {
    /// Whether the container belongs to what its Compose labels say, as far as is known.
    pub(super) fn is_member(&self, inspected: &Inspected) -> bool {
        let image = inspected.image_id.as_ref().map(|id| self.images.get(id).unwrap_or(&Image::Asked));
        image.is_none_or(|image| is_member(&inspected.metadata, image))
    }

    /// Asks for the image of a container on whose labels something depends, once.
    pub(super) fn look_at_image(&mut self, inspected: &Inspected) -> Option<Wish> {
        let id = inspected.image_id.as_ref().filter(|_| is_composed(&inspected.metadata))?;
        if self.images.contains_key(id) {
            return None;
        }
        self.images.insert(Arc::clone(id), Image::Asked);
        Some(Wish::InspectImage { id: Arc::clone(id) })
    }

    /// Takes an image's labels, and goes through its containers once more.
    pub(super) fn image_read(&mut self, id: &Arc<str>, facts: Option<ImageFacts>) {
        let known = facts.map_or(Image::Unreadable, Image::Known);
        self.images.insert(Arc::clone(id), known.clone());
        let options = &self.options;
        let mut read = Vec::new();
        for (short, entry) in &mut self.entries {
            let of_it = |held: &&Inspected| held.image_id.as_ref() == Some(id);
            let Some(inspected) = entry.inspected.as_ref().filter(of_it).cloned() else { continue };
            let before = (entry.claim.clone(), entry.identity.clone());
            config_of(options, entry, &inspected, is_member(&inspected.metadata, &known));
            if before != (entry.claim.clone(), entry.identity.clone()) {
                self.changes.touch(*short);
            }
            read.push(*short);
        }
        read.into_iter().for_each(|short| self.settle(short));
    }

    /// Whether something may still change when the image of this container has been read.
    pub(super) fn waits_for_image(&self, id: ShortId) -> bool {
        let inspected = self.entries.get(&id).and_then(|entry| entry.inspected.as_ref());
        let image = inspected.filter(|held| is_composed(&held.metadata)).and_then(|held| held.image_id.as_ref());
        image.is_some_and(|image| self.images.get(image) == Some(&Image::Asked))
    }

    /// What was asked will not be answered, and what could not be read may be now.
    pub(super) fn forget_images(&mut self) {
        self.images.retain(|_, image| matches!(image, Image::Known(_)));
    }

    /// Drops images that no container has.
    pub(super) fn drop_images(&mut self) {
        let used: BTreeSet<Arc<str>> =
            self.entries.values().filter_map(|entry| entry.inspected.as_ref()?.image_id.clone()).collect();
        self.images.retain(|id, image| *image == Image::Asked || used.contains(id));
    }
}

#[cfg(test)]
mod tests;
