//! What a running agent tells of containers, those that publish nothing among them.

use super::bed::{Home, address, engine_bed, eventually};

#[test]
fn a_container_is_explained_whether_it_is_published_or_not() {
    let bed = engine_bed("explain");
    let home = Home::new(&[]);
    let _agent = home.start();
    home.until_ready();
    bed.sleeper("silent", &["--label", "portolan.ignore=true"]);
    bed.sleeper("web", &[]);
    let silent = format!("/v1/explain?container={}", bed.name("silent"));
    eventually("the label that keeps it silent is named", || {
        let reply = home.json(&silent);
        (reply["containers"][0]["reason"]["code"] == "ignored").then_some(())
    });
    let name = bed.name("web");
    home.until_address(&format!("{name}.default"), &address(&name));
    let reply = home.json(&format!("/v1/explain?name={name}.default&container={name}"));
    let candidate = &reply["name"]["views"][0]["candidates"][0];
    assert_eq!(
        (&candidate["verdict"], &candidate["ipv4"]["reasons"][0]["code"]),
        (&"in".into(), &"hosts-bridge".into())
    );
    let seen = reply["containers"][0]["seen_by"].as_array().expect("a list");
    let askers: Vec<_> = seen.iter().map(|seen| seen["asker"].as_str().expect("text")).collect();
    assert_eq!(askers[..3], ["itself", "this host", "another host"], "{reply}");
    assert_eq!(reply["name"]["views"][1]["candidates"][0]["verdict"], "out", "it publishes no port");
}
