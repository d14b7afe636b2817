//! The binary: see `landfall --help`.

fn main() -> std::process::ExitCode {
    landfall::cli::main()
}
