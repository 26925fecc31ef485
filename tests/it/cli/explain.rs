//! `portolan explain` over a real socket, with replies that a unit test of the agent holds true.

use portolan::api::{AskAs, ExplainReply, ExplainRequest, ResolveError};

use super::{
    client::{portolan, shown},
    stage::{catalog, serve},
    transcript,
};

pub(super) fn explain(request: &ExplainRequest) -> Result<ExplainReply, ResolveError> {
    if request.asker == Some(AskAs::Container("ghost".to_owned())) {
        return Err(ResolveError::NoSuchAsker("no container \"ghost\" on this host".to_owned()));
    }
    let json = match (request.name.as_deref(), request.asker.is_some()) {
        (Some("web.shop"), false) => include_str!("explained/name.json"),
        (Some("web"), true) => include_str!("explained/as.json"),
        (Some("shop-web-1"), false) => include_str!("explained/container.json"),
        (Some("d100"), false) => include_str!("explained/silent.json"),
        _ => "{\"containers\":[]}",
    };
    Ok(serde_json::from_str(json).expect("a reply"))
}

#[tokio::test]
async fn every_candidate_is_told_with_its_reasons() {
    let served = serve(catalog()).await;
    insta::assert_snapshot!("explain_name", shown(&["explain", "web.shop"], &served).await);
    insta::assert_snapshot!("explain_as", shown(&["explain", "web", "--as", "frontend"], &served).await);
    insta::assert_snapshot!("explain_container", shown(&["explain", "shop-web-1"], &served).await);
    insta::assert_snapshot!("explain_silent", shown(&["explain", "d100"], &served).await);
    insta::assert_snapshot!(shown(&["explain", "web.shop", "-o", "name"], &served).await, @r"
    exit 0
    --- stdout
    a10000000000.web.shop
    b10000000000.web.shop
    --- stderr
    ");
    let output = portolan(&["explain", "web.shop", "-o", "json"], &served).await;
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json and nothing else");
    assert_eq!(reply["name"]["views"][1]["asker"], "another host");
}

#[tokio::test]
async fn the_exit_code_of_explain_tells_whether_anything_answers() {
    let served = serve(catalog()).await;
    for (arguments, code) in [
        (&["explain", "web.shop"][..], 0),
        (&["explain", "shop-web-1"], 0),
        (&["explain", "d100"], 3),
        (&["explain", "nothing"], 3),
        (&["explain", "web", "--as", "ghost"], 3),
    ] {
        let output = portolan(arguments, &served).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", transcript(&output));
    }
}
