//! Tables as Yarn's versions write them, and such as it never would.

use super::*;
use crate::zip::tests::zip;
use sha2::Digest as _;
use std::fs;

/// A project with a table of this and packages in zips; `own` is what lies in the source.
struct Project {
    folder: tempfile::TempDir,
    entries: Vec<String>,
    lock: String,
}

const HASH: &str = "f1342479e3b29364406faa8a1d33b26b81c669a5a90d81f1f62e1f1c3ce89c3b";

impl Project {
    fn new() -> Self {
        let mut project =
            Self { folder: tempfile::tempdir().unwrap(), entries: Vec::new(), lock: "__metadata:\n  version: 6\n".to_owned() };
        project.write(
            "package.json",
            r#"{"name":"page","dependencies":{"a":"1","@own/ui":"*"},"devDependencies":{"tool":"1","peer":"1"}}"#,
        );
        project
            .write("packages/ui/package.json", r#"{"name":"@own/ui","dependencies":{"b":"1"},"devDependencies":{"tool":"1"}}"#);
        project.own("page", "workspace:.", "./", r#"["a","npm:1.0.0"],["@own/ui","workspace:packages/ui"],["tool","npm:1.0.0"],["peer","npm:1.0.0"],["page","workspace:."]"#);
        project.own(
            "@own/ui",
            "workspace:packages/ui",
            "./packages/ui/",
            &format!(r#"["b","virtual:{HASH}#npm:1.0.0"],["tool","npm:1.0.0"]"#),
        );
        project.package("a", r#"["other",["@s/c","npm:3.0.0"]]"#, "{}");
        project.package("@s/c", r#"["gone",null]"#, r#""version":"3.0.0""#);
        project.package("b", "", "{}");
        project.package("tool", "", "{}");
        project.package("peer", "", "{}");
        project.table(
            "b",
            &format!("virtual:{HASH}#npm:1.0.0"),
            "./.yarn/__virtual__/b-virtual-c3/0/cache/b.zip/node_modules/b/",
            r#"["peer","npm:1.0.0"],["b","npm:1.0.0"]"#,
            r#""peer""#,
        );
        project
    }

    fn path(&self, inner: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(inner)
    }

    fn write(&self, inner: &str, content: impl AsRef<[u8]>) {
        fs::create_dir_all(self.path(inner).parent().unwrap()).unwrap();
        fs::write(self.path(inner), content).unwrap();
    }

    fn table(&mut self, name: &str, reference: &str, location: &str, needs: &str, peers: &str) {
        self.entries.push(format!(
            r#"["{name}",[["{reference}",{{"packageLocation":"{location}","packageDependencies":[{needs}],"packagePeers":[{peers}],"linkType":"HARD"}}]]]"#
        ));
    }

    fn own(&mut self, name: &str, reference: &str, location: &str, needs: &str) {
        self.table(name, reference, location, needs, "");
    }

    /// A package of this name in a zip of its own, with more fields in its manifest.
    fn package(&mut self, name: &str, needs: &str, more: &str) {
        let version = if more.contains("3.0.0") { "3.0.0" } else { "1.0.0" };
        let file = name.replace('/', "-");
        self.table(name, &format!("npm:{version}"), &format!("./.yarn/cache/{file}.zip/node_modules/{name}/"), needs, "");
        let manifest = format!(r#"{{"name":"{name}","version":"{version}","license":"MIT"}}"#);
        let root = format!("node_modules/{name}");
        let nested = r#"{"name":"inside","version":"7.0.0","license":"ISC"}"#;
        let bytes = zip(&[
            (&format!("{root}/package.json"), manifest.as_str()),
            (&format!("{root}/LICENSE"), "text"),
            (&format!("{root}/node_modules/inside/package.json"), nested),
        ]);
        self.write(&format!(".yarn/cache/{file}.zip"), &bytes);
        let sum = hex(&Sha512::digest(&bytes));
        let locator = format!("{name}@npm:{version}");
        self.lock += &format!("\n\"{locator}\":\n  version: {version}\n  resolution: \"{locator}\"\n  checksum: 8/{sum}\n");
    }

    fn json(&self) -> String {
        format!(
            "{{\n\"__info\": [\"it's\\\\\"],\n\"packageRegistryData\": [[null,[[null,{{\"packageLocation\":\"./\"}}]]],{}]\n}}",
            self.entries.join(",\n")
        )
    }

    /// What is found, in words; else what lacks.
    fn found(&self) -> anyhow::Result<Vec<String>> {
        if !self.path(".pnp.cjs").exists() {
            self.write(".pnp.cjs", "hydrateRuntimeState(JSON.parse(fs.readFileSync(pnpDataFilepath, 'utf8')))");
            self.write(DATA, self.json());
        }
        self.write("yarn.lock", &self.lock);
        let root = self.path("");
        let place = Place { root: root.clone(), source: root.clone(), built: vec![root.join("public")], caches: Vec::new() };
        let lock = Lock::near(&root, &root);
        let table = Table::near(&place)?.unwrap();
        let wanted = table.production(&place, &lock)?;
        if !wanted.lacking.is_empty() {
            return Ok(wanted.lacking);
        }
        let word = |found: Found| {
            let texts: Vec<&str> = found.texts.iter().map(|text| text.name.as_str()).collect();
            let mapped = if found.is_mapped { " mapped" } else { "" };
            format!("{}@{} {}{mapped}", found.name, found.version, texts.join(" "))
        };
        let texts = TextStore::below(self.path("texts"))?;
        Ok(table.packages(&place, &lock, &wanted, &texts)?.into_iter().map(word).collect())
    }

    fn error(&self) -> String {
        format!("{:#}", self.found().unwrap_err())
    }
}

#[test]
fn production_is_what_workspaces_need_to_run_in_all_forms_of_tables() {
    let mut project = Project::new();
    // One for another platform, that was not fetched; its scripts would compile something.
    project.entries[0] = project.entries[0].replace(r#"["a","npm:1.0.0"]"#, r#"["a","npm:1.0.0"],["mac","npm:1.0.0"]"#);
    project.table("mac", "npm:1.0.0", "./.yarn/unplugged/mac-npm/node_modules/mac/", r#"["node-gyp","npm:1.0.0"]"#, "");
    project.lock += "\n\"mac@npm:1.0.0\":\n  version: 1.0.0\n  resolution: \"mac@npm:1.0.0\"\n  conditions: os=darwin\n";
    let wanted = ["@s/c@3.0.0 LICENSE", "a@1.0.0 LICENSE", "b@1.0.0 LICENSE"];
    let json = project.json();
    let quoted = json.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\\n");
    for script in [
        format!("return hydrateRuntimeState({json}, {{basePath: basePath || __dirname}});"),
        format!("return hydrateRuntimeState(JSON.parse('{quoted}'), {{basePath: basePath || __dirname}});"),
        format!(
            "const RAW_RUNTIME_STATE =\n'{quoted}';\nfunction $$SETUP_STATE() {{ return hydrateRuntimeState(JSON.parse(RAW_RUNTIME_STATE)) }}"
        ),
    ] {
        project.write(".pnp.cjs", script);
        assert_eq!(project.found().unwrap(), wanted);
    }
    fs::remove_file(project.path(".pnp.cjs")).unwrap();
    assert_eq!(project.found().unwrap(), wanted);
    project.write("packages/other/package.json", "{}");
    let place = Place { root: project.path("packages/other"), source: project.path(""), built: Vec::new(), caches: Vec::new() };
    let table = Table::near(&place).unwrap().unwrap();
    let error = table.production(&place, &Lock::default()).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("packages/other is no workspace"), "{error}");
}

#[test]
fn what_maps_name_is_found_wherever_a_bundler_saw_it() {
    let project = Project::new();
    let map = r#"{"sources":["webpack://page/./.yarn/__virtual__/b-virtual-c3/0/cache/b.zip/node_modules/b/x.js?1","../.yarn/cache/tool.zip/node_modules/tool/y.js","webpack://page/../../cache/@s-c.zip/node_modules/@s/c/node_modules/inside/z.js","webpack://page/./node_modules/page/x.js"]}"#;
    project.write("public/app.js.map", map);
    let wanted = [
        "inside@7.0.0  mapped",
        "@s/c@3.0.0 LICENSE",
        "a@1.0.0 LICENSE",
        "b@1.0.0 LICENSE mapped",
        "tool@1.0.0 LICENSE mapped",
    ];
    let mut found = project.found().unwrap();
    found.sort_by_key(|one| !one.starts_with("inside"));
    assert_eq!(found, wanted);
}

#[test]
fn what_is_not_there_is_named_and_what_is_damaged_or_another_one_is_refused() {
    let project = Project::new();
    let zip_of_b = fs::read(project.path(".yarn/cache/b.zip")).unwrap();
    fs::remove_file(project.path(".yarn/cache/b.zip")).unwrap();
    assert_eq!(project.found().unwrap(), ["b@npm:1.0.0"]);
    let (half, other) = (&zip_of_b[..zip_of_b.len() / 2], zip(&[("node_modules/b/package.json", "{}")]));
    for bytes in [half, &other] {
        project.write(".yarn/cache/b.zip", bytes);
        let error = project.error();
        assert!(error.contains(".yarn/cache/b.zip") && error.contains("not the one that yarn.lock pins"), "{error}");
    }
    // Nor does a lock without hashes let anything pass.
    let lock = project.lock.lines().filter(|line| !line.contains("checksum")).collect::<Vec<_>>().join("\n");
    let project = Project { lock, ..project };
    let hostile = [
        (half.to_vec(), "b.zip"),
        (zip(&[("node_modules/b/package.json", "{")]), "node_modules/b/package.json"),
        (zip(&[("node_modules/c/package.json", "{}")]), "holds no node_modules/b/package.json"),
        (zip(&[("node_modules/b/package.json", "{}"), ("../../x", "")]), "leads out"),
        (zip(&[("node_modules/b/package.json", "{}"), ("node_modules/b/package.json", "{}")]), "twice"),
    ];
    for (bytes, why) in hostile {
        project.write(".yarn/cache/b.zip", bytes);
        let error = project.error();
        assert!(error.contains(".yarn/cache/b.zip") && error.contains(why), "{why}: {error}");
    }
}

#[test]
fn a_table_leads_nowhere_but_to_the_source_and_the_caches() {
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("package.json"), r#"{"name":"a","version":"1.0.0"}"#).unwrap();
    let mut project = Project::new();
    let place = elsewhere.path().to_str().unwrap().trim_start_matches('/').to_owned();
    let up = "../".repeat(project.path("").components().count());
    project.entries[2] = project.entries[2].replace("./.yarn/cache/a.zip/node_modules/a/", &format!("{up}{place}/"));
    let error = project.error();
    assert!(error.contains(&place) && error.contains("neither in the source nor in Yarn's cache"), "{error}");
    let project = Project::new();
    project.write(".pnp.cjs", "const RAW_RUNTIME_STATE =\n'{\"packageRegistryData\": 3}';");
    assert!(project.error().contains(".pnp.cjs"));
    project.write(".pnp.cjs", "nothing of that kind");
    assert!(project.error().contains(DATA));
}

#[test]
fn places_of_instances_are_those_of_the_packages() {
    let real = |path: &str| real(Path::new("/p/src"), path).to_string_lossy().into_owned();
    assert_eq!(
        real("./.yarn/__virtual__/x-virtual-1/0/cache/x.zip/node_modules/x/"),
        "/p/src/.yarn/cache/x.zip/node_modules/x"
    );
    assert_eq!(real("./.yarn/__virtual__/x-virtual-1/1/packages/ui/"), "/p/src/packages/ui");
    assert_eq!(real("./.yarn/$$virtual/x-virtual-1/3/g/x.zip/node_modules/x"), "/g/x.zip/node_modules/x");
    assert_eq!(real("../../../../../x"), "/x");
}
