//! Sample containers of the benchmarks: an image made on the spot, and the engine's own command line.

#![allow(dead_code, unreachable_pub, reason = "each benchmark includes this file and uses a part of it")]

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Image of the sample containers, made from busybox.
pub const IMAGE: &str = "portolan-bench-busybox";

/// Runs `docker` and tells what it says.
pub fn docker(arguments: &[&str]) -> Result<String> {
    let output = Command::new("docker").args(arguments).stdin(Stdio::null()).output().context("docker")?;
    ensure!(output.status.success(), "docker {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The sample containers' image; gone when dropped, so keep it for longer than them.
#[must_use]
pub struct Image;

impl Drop for Image {
    fn drop(&mut self) {
        let _gone = docker(&["rmi", IMAGE]);
    }
}

/// An image of nothing but busybox: there may be no registry.
pub fn make_image() -> Result<Image> {
    let script = format!(
        "d=$(mktemp -d) && mkdir $d/bin && cp $(command -v busybox) $d/bin/busybox && tar -C $d -c . | docker import - {IMAGE} >/dev/null && rm -r $d"
    );
    let status = Command::new("sh").args(["-ec", &script]).status()?;
    ensure!(status.success(), "no sample image: is busybox-static installed? (make setup)");
    Ok(Image)
}

/// A sample container, removed when dropped.
pub struct Container {
    /// Its id.
    pub id: String,
}

impl Container {
    /// `docker run -d` with these arguments.
    pub fn run(arguments: &[&str]) -> Result<Self> {
        Ok(Self { id: docker(&[&["run", "-d"], arguments].concat())? })
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _gone = docker(&["rm", "-f", &self.id]);
    }
}
