//! scratch
pub struct Abilities;
pub fn probe() -> Abilities { Abilities }
impl Abilities { pub fn ktls(&self) -> Result<(), String> { if std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default().contains("tls") { Ok(()) } else { Err("no tls".into()) } } }
