//! The core set: what each rule looks for, in which part of a request, how sure it is.
//!
//! Patterns see values in their one form (`normalise.rs`): in lower case, with one space for many. A rule's words are
//! looked for first, as that is quick; only where one is in a value the pattern runs, in time linear to the value.

/// Parts of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Path,
    /// Parameters, cookies and bodies.
    Value,
    Header,
    UserAgent,
}

/// A rule.
#[derive(Debug)]
pub struct Rule {
    pub id: u32,
    /// From which level on it is in use.
    pub paranoia: u8,
    /// 5 is sure, 2 is a hint.
    pub score: u32,
    pub parts: &'static [Part],
    pub words: &'static [&'static str],
    pub pattern: &'static str,
}

const EVERYWHERE: &[Part] = &[Part::Path, Part::Value, Part::Header, Part::UserAgent];
const PATH_AND_VALUES: &[Part] = &[Part::Path, Part::Value];
const VALUES: &[Part] = &[Part::Value];
const AGENT: &[Part] = &[Part::UserAgent];

const fn rule(
    id: u32,
    paranoia: u8,
    score: u32,
    parts: &'static [Part],
    words: &'static [&'static str],
    pattern: &'static str,
) -> Rule {
    Rule {
        id,
        paranoia,
        score,
        parts,
        words,
        pattern,
    }
}

/// The score of a rule that is sure.
pub const SURE: u32 = 5;
/// A NUL in a value; judged without a pattern.
pub const NUL: u32 = 7001;
/// A value that is encoded more often than any application needs; likewise.
pub const ENCODED_TOO_OFTEN: u32 = 7002;

pub const RULES: &[Rule] = &[
    // SQL injection.
    rule(
        1001,
        1,
        5,
        PATH_AND_VALUES,
        &["union"],
        r"\bunion\b[ (]+(all[ (]+|distinct[ (]+)?select\b",
    ),
    rule(
        1002,
        1,
        5,
        PATH_AND_VALUES,
        &["'", "\"", "`"],
        r#"['"`] ?\)* ?(or|and|xor|\|\||&&) ?[('" ]*[\w'"`]+ ?(=|<|>|like\b|in\b|between\b|is\b)"#,
    ),
    rule(
        1003,
        1,
        5,
        PATH_AND_VALUES,
        &[" or ", " and "],
        r"\b\d+ (or|and) \(?\d+ ?(=|<|>) ?\d+",
    ),
    rule(
        1004,
        1,
        5,
        PATH_AND_VALUES,
        &[";"],
        r"; ?((drop|alter|truncate|create) (table|database|schema|view|user|role|index|function|procedure|trigger)|delete from|insert into|update \w+ set|exec(ute)? ?[(@']|exec(ute)? (xp|sp)_|shutdown( with|;|$| ?--)|declare @)",
    ),
    rule(
        1005,
        1,
        5,
        PATH_AND_VALUES,
        &["sleep", "benchmark", "waitfor", "receive_message"],
        r"\b(pg_sleep|sleep|benchmark|dbms_pipe\.receive_message) ?\( ?['\d]|\bwaitfor delay\b",
    ),
    rule(
        1006,
        1,
        5,
        PATH_AND_VALUES,
        &[
            "schema",
            "sysobjects",
            "pg_",
            "sqlite_",
            "xp_",
            "load_file",
            "outfile",
            "dumpfile",
        ],
        r"\binformation_schema\b|\bsysobjects\b|\bpg_(catalog|shadow|read_file)\b|\bsqlite_(master|schema)\b|\bxp_(cmdshell|regread|dirtree)\b|\bload_file ?\(|\binto (outfile|dumpfile)\b",
    ),
    rule(
        1007,
        1,
        5,
        PATH_AND_VALUES,
        &["--"],
        r#"['"`]\)* ?;? ?--( |$|-|\+)"#,
    ),
    rule(
        1008,
        2,
        4,
        PATH_AND_VALUES,
        &["#", "/"],
        r#"['"`]\)* ?(#|/\*)"#,
    ),
    rule(
        1009,
        2,
        4,
        PATH_AND_VALUES,
        &["select"],
        r"\bselect\b.{1,200}\bfrom\b",
    ),
    rule(1010, 3, 3, VALUES, &["'"], r"^'|'$|\w'\)"),
    // Cross-site scripting.
    rule(2001, 1, 5, EVERYWHERE, &["script"], r"< ?/? ?script\b"),
    rule(
        2002,
        1,
        5,
        EVERYWHERE,
        &["on"],
        r#"<[^>]{0,200}[ /'"]on[a-z]{3,20} ?=|['"] ?on[a-z]{3,20} ?= ?['"a-z]"#,
    ),
    rule(
        2003,
        1,
        5,
        EVERYWHERE,
        &["script", "data:"],
        r"\b(java|vb|live) ?script ?:|\bdata: ?text/html",
    ),
    rule(
        2004,
        1,
        5,
        EVERYWHERE,
        &["<"],
        r"< ?(iframe|object|embed|applet|base|meta|frameset)\b",
    ),
    rule(
        2005,
        1,
        4,
        VALUES,
        &["document", "window", "eval", "fromcharcode", "alert"],
        r"\bdocument ?\. ?(cookie|write|domain|location)|\bwindow ?\. ?(location|open)|\b(eval|alert|prompt|confirm) ?[(`]|\bfromcharcode\b",
    ),
    rule(
        2006,
        2,
        4,
        VALUES,
        &["<"],
        r"< ?(svg|math|img|video|audio|details|body|style|link|form|input|marquee)\b",
    ),
    // Path traversal and files that no client asks for.
    rule(
        3001,
        1,
        5,
        PATH_AND_VALUES,
        &[".."],
        r"(^|[/=;:])\.\.(/|;|$)",
    ),
    rule(
        3002,
        1,
        5,
        PATH_AND_VALUES,
        &[
            "/etc/",
            "/proc/",
            ".ini",
            ".ssh",
            ".aws",
            ".git",
            ".env",
            ".config",
            "wp-config",
            ".htaccess",
            "id_rsa",
        ],
        r"/etc/(passwd|shadow|hosts|group|sudoers)\b|/proc/(self|\d+)/|\b(boot|win)\.ini\b|/\.ssh/|/\.aws/|(^|/)\.git(/|$)|(^|/)\.env\b|\bweb\.config\b|\bwp-config\.php|(^|/)\.htaccess|\bid_rsa\b",
    ),
    rule(
        3003,
        1,
        5,
        VALUES,
        &["://"],
        r"\b(file|php|phar|zip|expect|dict|gopher|ldaps?|jar|netdoc|tftp)://",
    ),
    // Commands.
    rule(
        4001,
        1,
        5,
        PATH_AND_VALUES,
        &[";", "|", "&", "`", "$("],
        r"[;|&`(] ?(whoami|uname|wget|curl|nc|ncat|netcat|bash|zsh|powershell|nslookup|chmod|ifconfig|cmd(\.exe)? /c)\b",
    ),
    rule(
        4002,
        1,
        5,
        PATH_AND_VALUES,
        &[";", "|", "&", "`", "$("],
        r"[;|&`(] ?(cat|ls|id|sh|ping|sleep|rm|echo|env|python[23]?|perl|php|ruby|node)( +[-/.~$'\d][^ ]*| *[;|&`)>]| *$)",
    ),
    rule(
        4003,
        1,
        5,
        EVERYWHERE,
        &["/bin/", "/dev/tcp", "cmd.exe"],
        r"/bin/(ba|z|da|c|k)?sh\b|/bin/(cat|ls|id|nc)\b|/dev/(tcp|udp)/|\bcmd\.exe\b",
    ),
    rule(4004, 1, 5, EVERYWHERE, &["()"], r"\(\) ?\{"),
    rule(
        4005,
        1,
        5,
        EVERYWHERE,
        &["${"],
        r"\$\{ ?(jndi|env|sys|java|lower|upper|date|::-)",
    ),
    rule(
        4006,
        1,
        5,
        VALUES,
        &["<?", "$ifs", "${ifs"],
        r"<\?(php|=)|\$\{?ifs\b",
    ),
    rule(
        4007,
        2,
        4,
        VALUES,
        &["{{", "<%", "#{"],
        r"\{\{.{1,80}\}\}|<%.{1,80}%>|#\{.{1,80}\}",
    ),
    // Requests to where only the server can go.
    rule(
        5001,
        1,
        5,
        VALUES,
        &[
            "169.254",
            "metadata",
            "fd00:ec2",
            "100.100.100.200",
            "2852039166",
            "0xa9fe",
            "0251.",
        ],
        r"\b169\.254\.(169\.254|170\.2)\b|\bmetadata\.(google\.internal|azure\.internal)\b|\bfd00:ec2::254\b|\b100\.100\.100\.200\b|\b2852039166\b|\b0xa9fea9fe\b|\b0251\.0376\.0251\.0376\b",
    ),
    rule(
        5002,
        2,
        4,
        VALUES,
        &["://"],
        r"\bhttps?://([^/ ]*@)?(localhost\b|127\.|0\.0\.0\.0|10\.\d|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|\[::1\]|\[f[cd])",
    ),
    // Scanners that say who they are.
    rule(
        6001,
        1,
        5,
        AGENT,
        &[],
        r"\b(sqlmap|nikto|nmap|masscan|nuclei|wpscan|dirbuster|gobuster|feroxbuster|ffuf|wfuzz|acunetix|nessus|openvas|zgrab|havij|w3af|arachni|commix|xsstrike|whatweb)\b",
    ),
    // Lines of a response, in a value that may get there.
    rule(
        7003,
        1,
        5,
        VALUES,
        &[":"],
        r"(^| )(set-cookie|content-type|content-length|location): ?[^ ]+ .*(<|http/1)",
    ),
];
