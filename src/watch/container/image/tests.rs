use super::*;
use crate::watch::container::{
    Event,
    tests::{Bed, WEB, id, labels_of, running},
};

const IMAGE: &str = "sha256:0123";
const SHOP: [(&str, &str); 2] = [("com.docker.compose.project", "shop"), ("com.docker.compose.service", "web")];

/// A running container of the image with these labels besides those of service `web` in project `shop`.
fn web(labels: &[(&str, &str)]) -> Inspected {
    let metadata = labels_of(&[&SHOP[..], labels].concat());
    Inspected { image_id: Some(IMAGE.into()), metadata, ..running(WEB, "10.0.0.2") }
}

fn composed(hash: Option<&str>) -> Option<ImageFacts> {
    Some(ImageFacts { composed: true, hash: hash.map(Into::into) })
}

fn read(bed: &mut Bed, facts: Option<ImageFacts>) {
    bed.apply(Event::Image { id: IMAGE.into(), facts });
}

fn service(bed: &Bed) -> String {
    let offer = &bed.desired.publications[&id(WEB).short()].services[0];
    format!("{}.{}", offer.service, offer.namespace)
}

#[test]
fn compose_s_labels_count_unless_they_come_from_the_image() {
    let hash: &[(&str, &str)] = &[("com.docker.compose.config-hash", "aa")];
    let (member, outsider) = ("web.shop", "shop-web-1.default");
    for (labels, facts, before, after) in [
        // What Compose makes, of any image.
        (hash, Some(ImageFacts::default()), member, member),
        (hash, composed(None), member, member),
        (hash, composed(Some("bb")), member, member),
        // What `docker run` makes of an image that Compose built, and of one that was committed.
        (&[], composed(None), outsider, outsider),
        (&[], composed(Some("aa")), outsider, outsider),
        (hash, composed(Some("aa")), member, outsider),
        // Labels that a person gave.
        (&[], Some(ImageFacts::default()), outsider, member),
        // An image that cannot be read.
        (hash, None, member, member),
        (&[], None, outsider, outsider),
    ] {
        let mut bed = Bed::new();
        bed.start(&web(labels));
        assert!(bed.wishes.contains(&Wish::InspectImage { id: IMAGE.into() }));
        assert_eq!(service(&bed), before, "{labels:?} {facts:?}");
        read(&mut bed, facts.clone());
        assert_eq!(service(&bed), after, "{labels:?} {facts:?}");
        bed.wishes.clear();
        bed.died(WEB).start(&web(labels));
        assert_eq!(service(&bed), after, "in its next run, too");
        assert!(!bed.wishes.contains(&Wish::InspectImage { id: IMAGE.into() }), "an image is read once");
    }
}

#[test]
fn an_outsider_asks_from_default_and_a_label_of_ours_makes_it_a_member() {
    let mut bed = Bed::new();
    bed.start(&web(&[("portolan.service", "web"), ("portolan.namespace", "shop")]));
    read(&mut bed, composed(None));
    assert_eq!(service(&bed), "web.shop");
    let mut bed = Bed::new();
    bed.start(&web(&[("com.docker.compose.oneoff", "True")]));
    read(&mut bed, composed(None));
    assert_eq!(bed.residents[&id(WEB).short()].outsider, Some(("web".into(), "shop".into())));
    let asker = bed.local.askers.values().next().unwrap();
    assert_eq!((&*service(&bed), asker.namespace.as_str()), ("shop-web-1.default", "default"), "nor is it a one-off");
}

#[test]
fn whoever_has_no_label_of_compose_costs_no_question() {
    let mut bed = Bed::new();
    bed.start(&Inspected { metadata: labels_of(&[("portolan.service", "x")]), ..web(&[]) });
    assert!(!bed.wishes.iter().any(|wish| matches!(wish, Wish::InspectImage { .. })));
}

#[test]
fn the_first_list_is_looked_through_when_the_images_are_read() {
    let mut bed = Bed::default();
    let web = web(&[]);
    bed.listed(&[&web]).answer(&web);
    assert!(!bed.desired.listed, "its names would change in a moment");
    read(&mut bed, Some(ImageFacts::default()));
    assert!(bed.desired.listed);
    assert_eq!(service(&bed), "web.shop");
    // An image that is asked for later makes nothing unseen.
    let later = Inspected { image_id: Some("sha256:4567".into()), ..web };
    bed.apply(Event::Changed(id(WEB))).answer(&later);
    assert!(bed.desired.listed);

    let mut bed = Bed::default();
    bed.listed(&[&later]).answer(&later).apply(Event::Lost);
    assert!(!bed.desired.listed);
    bed.listed(&[&later]).answer(&later);
    bed.apply(Event::Image { id: "sha256:4567".into(), facts: None });
    assert!(bed.desired.listed, "asked again on the next connection");
}
