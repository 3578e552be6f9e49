//! The web client of the shared cache: that of fetching in its manners, lent to `object_store`, which would otherwise bring
//! one with a TLS of its own.

use crate::fetch::http as manners;
use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions, HeaderValue};
use std::time::Duration;

/// Who asks a web folder; together with [`PASSWORD_VARIABLE`].
pub const USER_VARIABLE: &str = "DKUMONITOR_CACHE_USER";

/// The password that goes with [`USER_VARIABLE`].
pub const PASSWORD_VARIABLE: &str = "DKUMONITOR_CACHE_PASSWORD";

/// What a web folder takes instead of user and password.
pub const TOKEN_VARIABLE: &str = "DKUMONITOR_CACHE_TOKEN";

/// What web folders are told about who asks. Clouds have their own ways, which `object_store` knows.
///
/// # Errors
/// In words, when the environment holds what no header can.
pub fn authorization(variable: impl Fn(&str) -> Option<String>) -> Result<Option<HeaderValue>, String> {
    let text = match (variable(TOKEN_VARIABLE), variable(USER_VARIABLE)) {
        (Some(token), _) => format!("Bearer {token}"),
        (None, Some(user)) => {
            let password = variable(PASSWORD_VARIABLE).unwrap_or_default();
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
        }
        (None, None) => return Ok(None),
    };
    let mut value =
        HeaderValue::from_str(&text).map_err(|_| format!("{TOKEN_VARIABLE} holds a character that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// Gives `object_store` its clients.
#[derive(Debug)]
pub struct Connector {
    /// How long a connection may take to come about.
    pub connect: Duration,
    /// Sent with each request.
    pub authorization: Option<HeaderValue>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        // Fails only when a provider is there already, which is as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(manners::USER_AGENT)
            .connect_timeout(self.connect)
            .redirect(manners::redirects(manners::refuse_downgrade))
            .https_only(!plain)
            .build()
            .map_err(|error| object_store::Error::Generic { store: "HTTP", source: Box::new(error) })?;
        Ok(HttpClient::new(Service { client, authorization: self.authorization.clone() }))
    }
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    authorization: Option<HeaderValue>,
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url =
            parts.uri.to_string().parse::<reqwest::Url>().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        if let Some(value) = &self.authorization {
            request.headers_mut().insert("authorization", value.clone());
        }
        // At most one block, and in one piece, so that it can be sent again after a redirect.
        let body = body.collect().await?.to_bytes();
        *request.body_mut() = Some(body.into());
        let mut response = self.client.execute(request).await.map_err(sort)?;
        let mut answer = HttpResponse::new(Bytes::new().into());
        *answer.status_mut() = response.status();
        *answer.headers_mut() = std::mem::take(response.headers_mut());
        *answer.body_mut() = HttpResponseBody::new(reqwest::Body::from(response).map_err(sort));
        Ok(answer)
    }
}

fn sort(error: reqwest::Error) -> HttpError {
    let kind = match () {
        () if error.is_timeout() => HttpErrorKind::Timeout,
        () if error.is_connect() => HttpErrorKind::Connect,
        () => HttpErrorKind::Request,
    };
    // The address is said where the error is reported, without what may be secret.
    HttpError::new(kind, error.without_url())
}
