//! Work on another runtime than that of the connections.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use tokio::runtime::Handle;
use tower::{Layer, Service, ServiceExt};
use tracing::Instrument;

use super::RequestId;
use super::around::problem;

/// Runs what is behind it on another runtime, to its end, whatever becomes of the connection.
#[must_use]
pub fn on_control_plane(handle: &Handle) -> ControlPlane {
    ControlPlane { handle: handle.clone() }
}

/// The layer of [`on_control_plane`].
#[derive(Clone, Debug)]
pub struct ControlPlane {
    handle: Handle,
}

impl<S> Layer<S> for ControlPlane {
    type Service = OnControlPlane<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OnControlPlane { inner, handle: self.handle.clone() }
    }
}

/// The service of [`on_control_plane`].
#[derive(Clone, Debug)]
pub struct OnControlPlane<S> {
    inner: S,
    handle: Handle,
}

impl<S> Service<Request> for OnControlPlane<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let id = request.extensions().get::<RequestId>().map_or_else(String::new, |id| id.0.clone());
        let task = self.handle.spawn(self.inner.clone().oneshot(request).in_current_span());
        Box::pin(async move {
            match task.await {
                Ok(response) => response,
                Err(ended) => match ended.try_into_panic() {
                    // `wrap` answers it, as it answers every other.
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => {
                        Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the server is stopping", &id))
                    }
                },
            }
        })
    }
}
