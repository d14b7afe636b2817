//! The doors on their paths.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use http::{HeaderValue, StatusCode, header};
use tokio::runtime::Runtime;

use super::root;
use crate::dialect::{aitronos, cognite, coveo, native};
use crate::engine::Engine;
use crate::http::doors::Doors;
use crate::http::server::{self, Early};
use crate::ingress::part::{self, PartDoor, Says};
use crate::ingress::put::{self, Envelope, PutDoor};
use crate::ingress::resumable;
use crate::telemetry::Metrics;
use crate::ticket;

pub(super) fn router(doors: &Arc<Doors>, control: &Runtime, metrics: Option<Metrics>) -> Router {
    let coveo_says: Envelope = coveo::api::refuse_upload;
    let native_says: Envelope = native::refuse_upload;
    let put_door = Arc::new(PutDoor {
        doors: Arc::clone(doors),
        envelopes: HashMap::from([(coveo::api::WIRE, coveo_says), (native::WIRE, native_says)]),
        fallback: coveo::api::refuse_upload,
    });
    let native_says = Says { refuse: native::refuse_upload, early: native::refuse_early };
    let part_door = Arc::new(PartDoor {
        doors: Arc::clone(doors),
        wires: HashMap::from([
            (native::WIRE, native_says),
            (cognite::WIRE, Says { refuse: cognite::refuse_upload, early: cognite::refuse_early }),
        ]),
        fallback: native_says,
    });
    let stray_door = Arc::clone(&part_door);
    let on_control = server::on_control_plane(control.handle());
    let apis = Router::new()
        .merge(coveo::api::shared_routes())
        .merge(aitronos::shared_routes(post(root::files)))
        .route("/v1/", any(root::unknown))
        .route("/v1/{*rest}", any(root::unknown))
        .nest("/coveo", coveo::api::routes())
        .nest("/aitronos", aitronos::routes())
        .merge(cognite::shared_routes())
        .nest("/cognite", cognite::routes())
        .merge(native::routes())
        .with_state(Arc::clone(doors))
        .merge(health(&doors.engine, metrics));
    let again = apis.clone().fallback(cognite::unknown);
    let apis = apis
        .fallback(move |request: Request| async move {
            match part::refuse_stray(&stray_door, &request) {
                Some(refused) => refused,
                None => root::unrouted(again, request).await,
            }
        })
        .layer(on_control);
    // Bodies stay on the data plane, on the connection's own task.
    let bodies = resumable::routes()
        .merge(aitronos::bodies())
        .nest("/aitronos", aitronos::bodies())
        .with_state(Arc::clone(doors));
    put::routes().with_state(put_door).merge(part::routes().with_state(part_door)).merge(bodies).merge(apis)
}

/// What no handler sees is refused in the shape of the API that its path is of.
pub(super) fn refuse_early(path: &str, early: &Early, request_id: &str) -> Response {
    if path.strip_prefix('/').is_some_and(|path| path.starts_with(&format!("{}/", ticket::PREFIX))) {
        coveo::api::refuse_upload_early(early, request_id)
    } else if coveo::api::is_path(path) || root::of_coveo(path) {
        coveo::api::refuse_early(early, request_id)
    } else if ["/v1/", "/aitronos/"].iter().any(|mount| path.starts_with(mount)) {
        aitronos::refuse_early(early, request_id)
    } else if cognite::is_path(path) || part::wire_of(path) == Some(cognite::WIRE) {
        cognite::refuse_early(early, request_id)
    } else if native::is_path(path) || part::wire_of(path).is_some() {
        native::refuse_early(early, request_id)
    } else {
        early.problem(request_id)
    }
}

/// Probes for whoever runs the server.
pub(super) fn health(engine: &Arc<Engine>, metrics: Option<Metrics>) -> Router {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(engine));
    match metrics {
        Some(metrics) => router.route("/metrics", get(move || async move { exposition(&metrics) })),
        None => router,
    }
}

async fn ready(State(engine): State<Arc<Engine>>, _request: Request) -> Response {
    let space = match engine.blobs.ping().await {
        Ok(()) => engine.blobs.space().await,
        Err(error) => Err(error),
    };
    let reason = match (engine.meta.ping().await, space) {
        (Err(error), _) => format!("the database can't write: {error}\n"),
        (_, Err(error)) => {
            // What it says may name the inside of a network.
            tracing::warn!(%error, "the byte store can't be asked");
            "the byte store can't be asked\n".into()
        }
        (Ok(()), Ok(Some(space))) if space.free < engine.policy.free_space_min => {
            format!("{} bytes are free, {} are needed\n", space.free, engine.policy.free_space_min)
        }
        (Ok(()), Ok(_)) => return "ready\n".into_response(),
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}

fn exposition(metrics: &Metrics) -> Response {
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], metrics.render()).into_response()
}
