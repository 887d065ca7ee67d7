//! Compiles the protocols of `proto/`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["proto/control.proto"], &["proto"])?;
    // One message of the Workload API has a `google.protobuf.Struct`: compiled too, instead of a dependency for it.
    tonic_prost_build::configure().compile_well_known_types(true).compile_protos(&["proto/workload.proto"], &["proto"])
}
