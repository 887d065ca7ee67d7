//! Compiles the protocols of `proto/`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/control.proto"], &["proto"])
}
