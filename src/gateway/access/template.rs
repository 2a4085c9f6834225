//! What a line looks like: JSON, or a text with variables. Those that nginx has, too, have its names and its meaning.

/// The form of all lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Text(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Text(String),
    Variable(Variable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    RemoteAddr,
    RemoteUser,
    TimeLocal,
    TimeIso8601,
    Msec,
    Request,
    RequestMethod,
    RequestUri,
    Uri,
    Args,
    ServerProtocol,
    Scheme,
    Host,
    HttpHost,
    HttpReferer,
    HttpUserAgent,
    Status,
    BytesSent,
    BodyBytesSent,
    RequestLength,
    ContentReceived,
    RequestTime,
    UpstreamAddr,
    UpstreamConnectTime,
    UpstreamHeaderTime,
    UpstreamResponseTime,
    RequestId,
    SslProtocol,
    SslCipher,
    App,
    Route,
    Slot,
    Generation,
    SidTag,
    AnsweredBy,
    Reason,
    Retries,
    QueueTime,
    Upgrade,
    Tunnel,
}

/// All variables, nginx's first.
const VARIABLES: [(&str, Variable); 41] = [
    ("remote_addr", Variable::RemoteAddr),
    ("remote_user", Variable::RemoteUser),
    ("time_local", Variable::TimeLocal),
    ("time_iso8601", Variable::TimeIso8601),
    ("msec", Variable::Msec),
    ("request", Variable::Request),
    ("request_method", Variable::RequestMethod),
    ("request_uri", Variable::RequestUri),
    ("uri", Variable::Uri),
    ("args", Variable::Args),
    ("query_string", Variable::Args),
    ("server_protocol", Variable::ServerProtocol),
    ("scheme", Variable::Scheme),
    ("host", Variable::Host),
    ("http_host", Variable::HttpHost),
    ("http_referer", Variable::HttpReferer),
    ("http_user_agent", Variable::HttpUserAgent),
    ("status", Variable::Status),
    ("bytes_sent", Variable::BytesSent),
    ("body_bytes_sent", Variable::BodyBytesSent),
    ("request_length", Variable::RequestLength),
    ("request_time", Variable::RequestTime),
    ("upstream_addr", Variable::UpstreamAddr),
    ("upstream_connect_time", Variable::UpstreamConnectTime),
    ("upstream_header_time", Variable::UpstreamHeaderTime),
    ("upstream_response_time", Variable::UpstreamResponseTime),
    ("request_id", Variable::RequestId),
    ("ssl_protocol", Variable::SslProtocol),
    ("ssl_cipher", Variable::SslCipher),
    ("app", Variable::App),
    ("route", Variable::Route),
    ("slot", Variable::Slot),
    ("generation", Variable::Generation),
    ("sid_tag", Variable::SidTag),
    ("answered_by", Variable::AnsweredBy),
    ("reason", Variable::Reason),
    ("retries", Variable::Retries),
    ("queue_time", Variable::QueueTime),
    ("received", Variable::ContentReceived),
    ("upgrade", Variable::Upgrade),
    ("tunnel", Variable::Tunnel),
];

/// As nginx and Apache have it.
const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                        \"$http_referer\" \"$http_user_agent\"";

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// There is no variable of this name.
    Variable(String),
    /// A `$` without a name behind it, or a brace that is not closed.
    Dollar,
}

impl Format {
    pub(crate) fn combined() -> Format {
        // Its variables are known.
        Format::template(COMBINED).unwrap_or(Format::Json)
    }

    /// # Errors
    /// The first variable that there is not.
    pub(crate) fn template(text: &str) -> Result<Format, Unknown> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, behind) = match after.strip_prefix('{') {
                Some(braced) => braced.split_once('}').ok_or(Unknown::Dollar)?,
                None => {
                    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                    after.split_at(after.find(|c| !is_name(c)).unwrap_or(after.len()))
                }
            };
            if name.is_empty() {
                return Err(Unknown::Dollar);
            }
            let known = VARIABLES.iter().find(|(known, _)| *known == name);
            let (_, variable) = known.ok_or_else(|| Unknown::Variable(name.to_owned()))?;
            pieces.push(Piece::Variable(*variable));
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        Ok(Format::Text(pieces))
    }

    /// The names of all variables, without their `$`.
    pub(crate) fn variables() -> impl Iterator<Item = &'static str> {
        VARIABLES.iter().map(|(name, _)| *name)
    }
}
