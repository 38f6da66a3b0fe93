use miette::IntoDiagnostic;
use prost::Message as _;

fn main() -> miette::Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let fds = protox::compile(["mew.proto"], ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    std::fs::write(out.join("descriptor.bin"), fds.encode_to_vec()).into_diagnostic()?;
    let services = std::env::var_os("CARGO_FEATURE_SERVICES").is_some();
    tonic_prost_build::configure()
        .bytes(".")
        .build_client(services)
        .build_server(services)
        .compile_fds(fds)
        .into_diagnostic()
}
