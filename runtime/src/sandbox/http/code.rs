//! What a guest is told of a request that failed, and what the host remembers of why.

use std::error::Error as _;
use std::io;

use tokio_rustls::rustls;
use wasmtime::component::{ComponentType, Lower};

use crate::sandbox::limits;

/// `wasi:http/types#error-code`, in the order of its cases.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(variant)]
#[expect(dead_code, reason = "the type is complete; most of its cases are for other hosts")]
pub(in crate::sandbox) enum ErrorCode {
    #[component(name = "DNS-timeout")]
    DnsTimeout,
    #[component(name = "DNS-error")]
    DnsError(DnsError),
    #[component(name = "destination-not-found")]
    DestinationNotFound,
    #[component(name = "destination-unavailable")]
    DestinationUnavailable,
    #[component(name = "destination-IP-prohibited")]
    DestinationIpProhibited,
    #[component(name = "destination-IP-unroutable")]
    DestinationIpUnroutable,
    #[component(name = "connection-refused")]
    ConnectionRefused,
    #[component(name = "connection-terminated")]
    ConnectionTerminated,
    #[component(name = "connection-timeout")]
    ConnectionTimeout,
    #[component(name = "connection-read-timeout")]
    ConnectionReadTimeout,
    #[component(name = "connection-write-timeout")]
    ConnectionWriteTimeout,
    #[component(name = "connection-limit-reached")]
    ConnectionLimitReached,
    #[component(name = "TLS-protocol-error")]
    TlsProtocolError,
    #[component(name = "TLS-certificate-error")]
    TlsCertificateError,
    #[component(name = "TLS-alert-received")]
    TlsAlertReceived(TlsAlert),
    #[component(name = "HTTP-request-denied")]
    HttpRequestDenied,
    #[component(name = "HTTP-request-length-required")]
    HttpRequestLengthRequired,
    #[component(name = "HTTP-request-body-size")]
    HttpRequestBodySize(Option<u64>),
    #[component(name = "HTTP-request-method-invalid")]
    HttpRequestMethodInvalid,
    #[component(name = "HTTP-request-URI-invalid")]
    HttpRequestUriInvalid,
    #[component(name = "HTTP-request-URI-too-long")]
    HttpRequestUriTooLong,
    #[component(name = "HTTP-request-header-section-size")]
    HttpRequestHeaderSectionSize(Option<u32>),
    #[component(name = "HTTP-request-header-size")]
    HttpRequestHeaderSize(Option<FieldSize>),
    #[component(name = "HTTP-request-trailer-section-size")]
    HttpRequestTrailerSectionSize(Option<u32>),
    #[component(name = "HTTP-request-trailer-size")]
    HttpRequestTrailerSize(FieldSize),
    #[component(name = "HTTP-response-incomplete")]
    HttpResponseIncomplete,
    #[component(name = "HTTP-response-header-section-size")]
    HttpResponseHeaderSectionSize(Option<u32>),
    #[component(name = "HTTP-response-header-size")]
    HttpResponseHeaderSize(FieldSize),
    #[component(name = "HTTP-response-body-size")]
    HttpResponseBodySize(Option<u64>),
    #[component(name = "HTTP-response-trailer-section-size")]
    HttpResponseTrailerSectionSize(Option<u32>),
    #[component(name = "HTTP-response-trailer-size")]
    HttpResponseTrailerSize(FieldSize),
    #[component(name = "HTTP-response-transfer-coding")]
    HttpResponseTransferCoding(Option<String>),
    #[component(name = "HTTP-response-content-coding")]
    HttpResponseContentCoding(Option<String>),
    #[component(name = "HTTP-response-timeout")]
    HttpResponseTimeout,
    #[component(name = "HTTP-upgrade-failed")]
    HttpUpgradeFailed,
    #[component(name = "HTTP-protocol-error")]
    HttpProtocolError,
    #[component(name = "loop-detected")]
    LoopDetected,
    #[component(name = "configuration-error")]
    ConfigurationError,
    #[component(name = "internal-error")]
    InternalError(Option<String>),
}

/// `DNS-error-payload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub(in crate::sandbox) struct DnsError {
    rcode: Option<String>,
    #[component(name = "info-code")]
    info_code: Option<u16>,
}

/// `TLS-alert-received-payload`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub(in crate::sandbox) struct TlsAlert {
    #[component(name = "alert-id")]
    id: Option<u8>,
    #[component(name = "alert-message")]
    message: Option<String>,
}

/// `field-size-payload`.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lower)]
#[component(record)]
pub(in crate::sandbox) struct FieldSize {
    #[component(name = "field-name")]
    name: Option<String>,
    #[component(name = "field-size")]
    size: Option<u32>,
}

/// What the library says of a head that is too large. It has a method for it, for servers only.
const TOO_LARGE: &str = "message head is too large";

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox) struct Failure {
    /// What the guest is told, which says little.
    pub(in crate::sandbox) code: ErrorCode,
    /// What the operator is told if the call fails: WASI's codes carry no words.
    pub(in crate::sandbox) why: Option<Why>,
}

/// Words for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sandbox) struct Why {
    pub(in crate::sandbox) text: String,
    /// A limit of ours was hit.
    pub(in crate::sandbox) limit: bool,
}

// === impl Failure ===

impl Failure {
    pub(super) fn plain(code: ErrorCode) -> Self {
        Self { code, why: None }
    }

    pub(super) fn told(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, why: Some(Why { text: text.into(), limit: false }) }
    }

    pub(super) fn limit(code: ErrorCode, text: impl Into<String>) -> Self {
        Self { code, why: Some(Why { text: text.into(), limit: true }) }
    }

    /// A connection to `origin` was not made.
    pub(super) fn connecting(error: &io::Error, origin: &str) -> Self {
        Self::plain(match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorCode::ConnectionRefused,
            io::ErrorKind::TimedOut => ErrorCode::ConnectionTimeout,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => ErrorCode::DestinationIpUnroutable,
            _ => match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(rustls::Error::InvalidCertificate(why)) => {
                    let text = format!(
                        "the certificate of {origin} is not trusted ({why:?}); to trust another authority: [host] \
                         http_ca_file = \"PATH\""
                    );
                    return Self::told(ErrorCode::TlsCertificateError, text);
                }
                Some(rustls::Error::AlertReceived(alert)) => {
                    let (id, message) = (Some(u8::from(*alert)), Some(format!("{alert:?}")));
                    ErrorCode::TlsAlertReceived(TlsAlert { id, message })
                }
                Some(_) => ErrorCode::TlsProtocolError,
                None => ErrorCode::ConnectionTerminated,
            },
        })
    }

    /// A request was sent, or begun to be.
    pub(super) fn speaking(error: &hyper::Error, header_bytes: usize) -> Self {
        if error.is_parse() && error.to_string() == TOO_LARGE {
            let code = ErrorCode::HttpResponseHeaderSectionSize(u32::try_from(header_bytes).ok());
            let more = limits::more_bytes("http_header_bytes", header_bytes);
            let headers = limits::HTTP_HEADERS;
            let text = format!(
                "an answer has more than {header_bytes} bytes of headers, or more than {headers} of them; {more}"
            );
            return Self::limit(code, text);
        }
        let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let ended = io.is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        Self::plain(match () {
            () if error.is_incomplete_message() || ended => ErrorCode::HttpResponseIncomplete,
            () if error.is_parse() => ErrorCode::HttpProtocolError,
            () if io.is_some() || error.is_closed() || error.is_canceled() => ErrorCode::ConnectionTerminated,
            () => ErrorCode::HttpProtocolError,
        })
    }

    /// Whether the connection ended before an answer did.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self.code, ErrorCode::HttpResponseIncomplete | ErrorCode::ConnectionTerminated)
    }
}
