//! Who belongs to a Compose service: what Compose made, and not what `docker run` makes of an image with Compose's labels.

use hickory_proto::rr::RecordType;

use super::{
    bed::{A, Container, SOON, eventually, everywhere, targets, unique, unique_port},
    drain::portolan,
};

/// An image of the host's engine; dropped, it is gone.
struct Image(String);

impl Drop for Image {
    fn drop(&mut self) {
        drop(A.try_docker(&["image", "rm", "-f", &self.0]));
    }
}

/// Starts a container of an image, published at this port.
fn run(image: &str, port: u16, labels: &[&str]) -> Container {
    let container = Container { host: A, name: unique("c") };
    let publish = format!("{port}:80");
    let mut arguments = vec!["run", "-d", "--name", &container.name, "-p", &publish];
    arguments.extend(labels.iter().flat_map(|label| ["--label", label]));
    A.docker(&[&arguments[..], &[image]].concat());
    container
}

#[test]
fn what_docker_run_makes_of_a_committed_or_built_image_is_no_member_of_the_service() {
    let project = unique("shop");
    let labels = [("project", &*project), ("service", "web"), ("config-hash", "0123abcd")];
    let labels = labels.map(|(key, value)| format!("com.docker.compose.{key}={value}"));
    let [of_project, of_service, hash] = labels.each_ref().map(String::as_str);
    let (own, shell, given) = (unique_port(), unique_port(), unique_port());
    let name = format!("web.{project}.svc.internal");
    let replica = run(super::bed::SAMPLE, own, &[of_project, of_service, hash]);
    everywhere(&name, RecordType::SRV, &targets([(A.address, own)]));

    let committed = Image(unique("committed"));
    A.docker(&["commit", &replica.name, &committed.0]);
    // As Compose labels what it builds: without a config-hash.
    let built = Image(unique("built"));
    let change = |label: &str| format!("LABEL {label}");
    let plain = A.run(&unique("plain"), &[]);
    A.docker(&["commit", "-c", &change(of_project), "-c", &change(of_service), &plain.name, &built.0]);
    for image in [&committed, &built] {
        let debug = run(&image.0, shell, &[]);
        let its_own = format!("{}.default.svc.internal", debug.name);
        everywhere(&its_own, RecordType::SRV, &targets([(A.address, shell)]));
        everywhere(&name, RecordType::SRV, &targets([(A.address, own)]));
        let told = portolan(A, &["explain", &debug.name]).expect("explained");
        let label = format!("portolan.namespace={project}");
        assert!(told.contains("portolan.service=web") && told.contains(&label), "{told}");
    }
    // What Compose makes of either has a hash of its own; and who is given the labels is a member by the user's word.
    for (image, labels) in [
        (&committed, vec!["com.docker.compose.config-hash=other".to_owned()]),
        (&built, vec![hash.to_owned()]),
        (&built, vec!["portolan.service=web".to_owned(), format!("portolan.namespace={project}")]),
    ] {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        let member = run(&image.0, given, &labels);
        everywhere(&name, RecordType::SRV, &targets([(A.address, own), (A.address, given)]));
        drop(member);
        everywhere(&name, RecordType::SRV, &targets([(A.address, own)]));
    }
    eventually("nothing is wrong with it", SOON, || {
        let problems = A.http("/v1/problems");
        if problems.contains(&project) { Err(problems) } else { Ok(()) }
    });
    drop(replica);
}
