//! Names that only an asker's own host knows: a container that asks another host's agent is sent on to its own.

use super::{
    bed::{A, B, SOON, eventually, unique},
    dns::Answer,
};

#[test]
fn a_container_that_asks_another_host_is_sent_on_for_what_its_own_namespace_has() {
    let (namespace, service) = (format!("portolan.namespace={}", unique("shop")), unique("only"));
    let named = format!("portolan.service={service}");
    let server = B.run(&unique("server"), &["--label", &namespace, "--label", &named]);
    let asker = B.run(&unique("asker"), &["--label", &namespace]);
    let address = server.address("bridge");
    let near = format!("{service}.svc.internal");
    eventually("its own host gives it", SOON, || match asker.ask_at(B.dns(), &near, "A") {
        Answer::Found(found) if found.contains(&address) => Ok(()),
        other => Err(other.to_string()),
    });
    // Its own host's address is all that the other one sees of it.
    for name in [format!("{service}."), near.clone(), format!("{}.svc.internal", unique("nothing"))] {
        let refused = Answer::Silence("status REFUSED".to_owned());
        eventually(&format!("{name} is refused"), SOON, || match asker.ask_at(A.dns(), &name, "A") {
            answer if answer == refused => Ok(()),
            other => Err(other.to_string()),
        });
    }
    let told = asker.dig(&[&format!("@{}", A.dns().ip()), &near, "A"]).expect("a reply");
    assert!(told.contains("EDE: 20"), "dig shows why: {told}");
}
