//! What the user is told after an installation, and the firewall's rules for what listens to other machines.

use std::net::IpAddr;

use super::context::{Carbon, Context};
use super::plan::Plan;

/// The file with the rules, in the data folder.
pub const FIREWALL: &str = "conf/firewall.txt";

/// What knows no passwords: the service, the name of its port, whether it is UDP as well, and what somebody who reaches it can do.
const OPEN: [(&str, &str, bool, &str); 3] = [
    ("go-carbon", "carbon", true, "can write whatever they like into its storage"),
    ("carbonapi", "carbonapi", false, "can read all metrics, and keep it busy"),
    ("go-carbon", "carbonserver", false, "can read all metrics, and keep it busy"),
];

/// Those that other machines can reach.
fn open(context: &Context) -> impl Iterator<Item = &'static (&'static str, &'static str, bool, &'static str)> {
    OPEN.iter().filter(|(service, name, ..)| context.has(service) && !is_loopback(&context.listen[name]))
}

fn is_loopback(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Plan {
    /// What the user is told in the end.
    #[must_use]
    pub fn farewell(&self) -> String {
        let context = &self.context;
        let mut out = format!("Installed {} {} in {}.\n\n", self.kind, context.version, self.data.display());
        if let (true, Some(password)) = (context.has("grafana"), &self.password) {
            let web = &context.web;
            let address = if web.root.is_empty() { format!("{}/", web.local) } else { web.root.clone() };
            out += &format!(
                "  Grafana    {address} user admin, password {password}\n\
                 {:13}(shown this once; kept in conf/secrets/grafana-admin-password)\n",
                ""
            );
        }
        if context.has("go-carbon") {
            out += &format!("  carbon     {} (TCP and UDP, plain text)\n", context.endpoints["carbon"]);
        }
        if context.has("carbonapi") {
            out += &format!("  carbonapi  http://{}/\n", context.endpoints["carbonapi"]);
        }
        if self.arguments.kind() == crate::service::InstallType::Frontend {
            out += &format!("  asking     {}\n", context.backends.join(", "));
        }
        if context.has("collectd") {
            let Carbon { host, port } = &context.carbon;
            let every = context.interval;
            out += &format!("  collectd   sends collectd.{}.* to {host} port {port} every {every} s\n", context.hostname);
        }
        for note in &self.notes {
            out += &format!("\nNote: {note}.\n");
        }
        if let Some(rules) = firewall(context) {
            out += &format!("\n{rules}(Also in {FIREWALL}.)\n");
        }
        out + &format!("\nStart it:  {}\n", shell_quoted(&format!("{}/bin/dkm", context.data)) + " start")
    }
}

/// What it means that something without passwords listens to other machines, and rules for the usual firewalls; none when nothing does.
#[must_use]
pub fn firewall(context: &Context) -> Option<String> {
    let mut out = String::new();
    let (mut tcp, mut udp) = (Vec::new(), Vec::new());
    for (_, name, datagrams, what) in open(context) {
        let port = context.ports[name];
        out += &format!("Whoever reaches {name} on {} {what}: it knows no passwords.\n", context.endpoints[name]);
        tcp.push(port);
        udp.extend(datagrams.then_some(port));
    }
    if tcp.is_empty() {
        return None;
    }
    let six = open(context).any(|(_, name, ..)| context.listen[name].contains(':'));
    let (family, network) = if six { ("ip6", "2001:db8::/32") } else { ("ip", "192.0.2.0/24") };
    let list = |ports: &[u16]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let each = || tcp.iter().map(|port| (port, "tcp")).chain(udp.iter().map(|port| (port, "udp")));
    out += &format!(
        "Let only those in that should. As root, with your network instead of {network}, one of these:\n\n  # nftables\n"
    );
    out += "  nft add table inet dkumonitor\n";
    out += "  nft 'add chain inet dkumonitor input { type filter hook input priority -1; policy accept; }'\n";
    for (protocol, ports) in [("tcp", &tcp), ("udp", &udp)].into_iter().filter(|(_, ports)| !ports.is_empty()) {
        let ports = list(ports);
        out += &format!(
            "  nft 'add rule inet dkumonitor input iif != lo {family} saddr != {network} {protocol} dport {{ {ports} }} drop'\n"
        );
        if six {
            // What listens on every IPv6 address takes IPv4 as well.
            out += &format!(
                "  nft 'add rule inet dkumonitor input iif != lo meta nfproto ipv4 {protocol} dport {{ {ports} }} drop'\n"
            );
        }
    }
    out += "\n  # ufw, whose default is to deny\n";
    for (port, protocol) in each() {
        out += &format!("  ufw allow proto {protocol} from {network} to any port {port}\n");
    }
    out += "\n  # firewalld, whose zones deny\n";
    for (port, protocol) in each() {
        let family = if six { "ipv6" } else { "ipv4" };
        out += &format!(
            "  firewall-cmd --permanent --add-rich-rule='rule family=\"{family}\" source address=\"{network}\" port port=\"{port}\" \
             protocol=\"{protocol}\" accept'\n"
        );
    }
    out += "  firewall-cmd --reload\n\n";
    Some(out)
}

/// A path as it can be pasted into a shell.
pub fn shell_quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_can_be_pasted() {
        assert_eq!(shell_quoted("/a/b"), "/a/b");
        assert_eq!(shell_quoted("/a b'c"), r"'/a b'\''c'");
    }

    fn context(address: &str) -> Context {
        let names = ["carbon", "carbonapi", "carbonserver"];
        Context {
            services: vec!["go-carbon".to_owned(), "carbonapi".to_owned()],
            ports: names.into_iter().zip(27_601..).collect(),
            listen: names.map(|name| (name, if name == "carbonserver" { "127.0.0.1" } else { address }.to_owned())).into(),
            endpoints: names.map(|name| (name, format!("{address}:0"))).into(),
            ..Context::default()
        }
    }

    #[test]
    fn rules_are_for_what_listens_to_others() {
        assert_eq!(firewall(&context("127.0.0.1")), None);
        let rules = firewall(&context("0.0.0.0")).unwrap();
        for wanted in [
            "Whoever reaches carbon on 0.0.0.0:0 can write",
            "iif != lo ip saddr != 192.0.2.0/24 tcp dport { 27601, 27602 } drop",
            "iif != lo ip saddr != 192.0.2.0/24 udp dport { 27601 } drop",
            "ufw allow proto udp from 192.0.2.0/24 to any port 27601",
            "port port=\"27602\" protocol=\"tcp\" accept",
        ] {
            assert!(rules.contains(wanted), "\"{wanted}\" is not in:\n{rules}");
        }
        assert!(!rules.contains("27603") && !rules.contains("27600"), "{rules}");
        assert!(firewall(&context("::")).unwrap().contains("ip6 saddr != 2001:db8::/32 tcp"));
    }
}
