//! GeoJSON geometries (RFC 7946) on a plane: are they well formed, and how do they lie to each other?

use serde_json::Value;

use super::entry::Relation;

type Point = (f64, f64);

/// Points, lines and areas: what a geometry is made of. An area is an outer ring and its holes.
#[derive(Debug, Default)]
struct Shape {
    points: Vec<Point>,
    lines: Vec<Vec<Point>>,
    areas: Vec<Vec<Vec<Point>>>,
}

/// Reads a geometry.
///
/// # Errors
/// What is wrong with it: completes a sentence that begins with its name.
pub fn check(geometry: &Value) -> Result<(), String> {
    shape(geometry).map(drop)
}

/// Does a geometry lie so to a shape? What is malformed lies nowhere.
#[must_use]
pub fn lies(geometry: &Value, relation: Relation, to: &Value) -> bool {
    let (Ok(geometry), Ok(to)) = (shape(geometry), shape(to)) else { return false };
    // Most places are far from the shape, and every edge of one is compared with every edge of the other.
    if !near(geometry.bounds(), to.bounds()) {
        return relation == Relation::Disjoint;
    }
    match relation {
        Relation::Intersects => meet(&geometry, &to),
        Relation::Disjoint => !meet(&geometry, &to),
        Relation::Within => within(&geometry, &to),
    }
}

fn shape(geometry: &Value) -> Result<Shape, String> {
    let kind = geometry.get("type").and_then(Value::as_str).ok_or("must have a `type`")?;
    let at = geometry.get("coordinates").ok_or("must have `coordinates`")?;
    let mut shape = Shape::default();
    match kind {
        "Point" => shape.points = vec![point(at)?],
        "MultiPoint" => shape.points = points(at)?,
        "LineString" => shape.lines = vec![line(at)?],
        "MultiLineString" => shape.lines = list(at)?.iter().map(line).collect::<Result<_, _>>()?,
        "Polygon" => shape.areas = vec![area(at)?],
        "MultiPolygon" => shape.areas = list(at)?.iter().map(area).collect::<Result<_, _>>()?,
        _ => {
            return Err(
                "must have the `type` Point, MultiPoint, LineString, MultiLineString, Polygon or MultiPolygon".into()
            );
        }
    }
    Ok(shape)
}

fn list(value: &Value) -> Result<&Vec<Value>, String> {
    value.as_array().filter(|list| !list.is_empty()).ok_or_else(|| "must have `coordinates` of its type".to_owned())
}

fn point(value: &Value) -> Result<Point, String> {
    let numbers = list(value)?.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>();
    match numbers.as_deref() {
        Some([x, y, ..]) if x.is_finite() && y.is_finite() => Ok((*x, *y)),
        _ => Err("must have positions of two or more numbers".into()),
    }
}

fn points(value: &Value) -> Result<Vec<Point>, String> {
    list(value)?.iter().map(point).collect()
}

fn line(value: &Value) -> Result<Vec<Point>, String> {
    points(value)
        .and_then(|line| if line.len() < 2 { Err("must have lines of two or more positions".into()) } else { Ok(line) })
}

fn area(value: &Value) -> Result<Vec<Vec<Point>>, String> {
    let rings = list(value)?.iter().map(points).collect::<Result<Vec<_>, _>>()?;
    if rings.iter().any(|ring| ring.len() < 4 || ring.first() != ring.last()) {
        return Err("must have closed rings of four or more positions".into());
    }
    Ok(rings)
}

fn edges(line: &[Point]) -> impl Iterator<Item = (Point, Point)> + '_ {
    line.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)))
}

impl Shape {
    /// Its lowest and its highest coordinates.
    fn bounds(&self) -> (Point, Point) {
        let lines = self.lines.iter().chain(self.areas.iter().flatten()).flatten();
        let none = ((f64::INFINITY, f64::INFINITY), (f64::NEG_INFINITY, f64::NEG_INFINITY));
        self.points
            .iter()
            .chain(lines)
            .fold(none, |(low, high), at| ((low.0.min(at.0), low.1.min(at.1)), (high.0.max(at.0), high.1.max(at.1))))
    }

    fn all_edges(&self) -> impl Iterator<Item = (Point, Point)> + '_ {
        self.lines.iter().chain(self.areas.iter().flatten()).flat_map(|line| edges(line))
    }

    /// A point of each part of it.
    fn samples(&self) -> impl Iterator<Item = Point> + '_ {
        let lines = self.lines.iter().chain(self.areas.iter().filter_map(|rings| rings.first()));
        self.points.iter().copied().chain(lines.filter_map(|line| line.first().copied()))
    }

    /// Is a point on it, borders included?
    fn covers(&self, at: Point) -> bool {
        self.points.contains(&at)
            || self.all_edges().any(|edge| on(at, edge))
            || self.areas.iter().any(|rings| {
                let mut rings = rings.iter().map(|ring| inside(at, ring));
                rings.next() == Some(true) && !rings.any(|hole| hole)
            })
    }
}

fn near((low, high): (Point, Point), (other_low, other_high): (Point, Point)) -> bool {
    low.0 <= other_high.0 && other_low.0 <= high.0 && low.1 <= other_high.1 && other_low.1 <= high.1
}

/// Twice the area of a triangle; its sign says which way it turns.
fn turn(a: Point, b: Point, c: Point) -> f64 {
    (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0)
}

fn between(at: Point, (a, b): (Point, Point)) -> bool {
    at.0 >= a.0.min(b.0) && at.0 <= a.0.max(b.0) && at.1 >= a.1.min(b.1) && at.1 <= a.1.max(b.1)
}

fn on(at: Point, edge: (Point, Point)) -> bool {
    turn(edge.0, edge.1, at) == 0.0 && between(at, edge)
}

fn cross(one: (Point, Point), other: (Point, Point)) -> bool {
    properly_cross(one, other) || on(one.0, other) || on(one.1, other) || on(other.0, one) || on(other.1, one)
}

fn properly_cross((a, b): (Point, Point), (c, d): (Point, Point)) -> bool {
    let sides = |x: f64, y: f64| (x > 0.0 && y < 0.0) || (x < 0.0 && y > 0.0);
    sides(turn(a, b, c), turn(a, b, d)) && sides(turn(c, d, a), turn(c, d, b))
}

/// Is a point in a ring? By the number of edges on its right.
fn inside(at: Point, ring: &[Point]) -> bool {
    edges(ring).filter(|(a, b)| (a.1 > at.1) != (b.1 > at.1) && right_of(at, *a, *b)).count() % 2 == 1
}

fn right_of(at: Point, a: Point, b: Point) -> bool {
    at.0 < a.0 + (at.1 - a.1) * (b.0 - a.0) / (b.1 - a.1)
}

fn meet(one: &Shape, other: &Shape) -> bool {
    one.samples().any(|at| other.covers(at))
        || other.samples().any(|at| one.covers(at))
        || one.points.iter().any(|at| other.covers(*at))
        || other.points.iter().any(|at| one.covers(*at))
        || one.all_edges().any(|edge| other.all_edges().any(|edge_of_other| cross(edge, edge_of_other)))
}

/// Every corner and every middle of an edge is on the other, and no edge leaves it.
fn within(one: &Shape, other: &Shape) -> bool {
    let middle = |(a, b): (Point, Point)| (f64::midpoint(a.0, b.0), f64::midpoint(a.1, b.1));
    one.points.iter().all(|at| other.covers(*at))
        && one.all_edges().all(|edge| {
            other.covers(edge.0)
                && other.covers(edge.1)
                && other.covers(middle(edge))
                && (other.areas.is_empty() || !other.all_edges().any(|border| properly_cross(edge, border)))
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn geometries_lie_to_each_other() {
        let square = json!({ "type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]] });
        let holed = json!({ "type": "Polygon", "coordinates":
            [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]], [[1, 1], [3, 1], [3, 3], [1, 3], [1, 1]]] });
        let at = |x: f64, y: f64| json!({ "type": "Point", "coordinates": [x, y] });
        let line = |a: [i32; 2], b: [i32; 2]| json!({ "type": "LineString", "coordinates": [a, b] });
        let within = |shape: &Value, to: &Value| lies(shape, Relation::Within, to);
        let meet = |shape: &Value, to: &Value| {
            let meet = lies(shape, Relation::Intersects, to);
            assert_eq!(meet, !lies(shape, Relation::Disjoint, to));
            assert_eq!(meet, lies(to, Relation::Intersects, shape), "{shape} {to}");
            meet
        };
        assert!(meet(&at(2.0, 2.0), &square) && within(&at(2.0, 2.0), &square));
        assert!(meet(&at(4.0, 4.0), &square), "a border belongs to its area");
        assert!(!meet(&at(2.0, 2.0), &holed) && meet(&at(0.5, 2.0), &holed));
        assert!(!meet(&at(5.0, 2.0), &square));
        assert!(meet(&line([-1, 2], [5, 2]), &square) && !within(&line([-1, 2], [5, 2]), &square));
        assert!(within(&line([1, 1], [3, 3]), &square) && !within(&line([1, 1], [3, 3]), &holed));
        assert!(!meet(&line([5, 0], [5, 4]), &square));
        let inner = json!({ "type": "MultiPolygon", "coordinates": [[[[1, 1], [2, 1], [2, 2], [1, 1]]]] });
        assert!(meet(&inner, &square) && within(&inner, &square) && !within(&square, &inner));
        let both = json!({ "type": "MultiPoint", "coordinates": [[9, 9], [1, 1]] });
        assert!(meet(&both, &square) && !within(&both, &square));
    }

    #[test]
    fn what_is_no_geometry_is_told() {
        for bad in [
            json!({}),
            json!({ "type": "Circle", "coordinates": [0, 0] }),
            json!({ "type": "Point" }),
            json!({ "type": "Point", "coordinates": [0] }),
            json!({ "type": "Point", "coordinates": ["a", "b"] }),
            json!({ "type": "LineString", "coordinates": [[0, 0]] }),
            json!({ "type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]] }),
            json!({ "type": "MultiPolygon", "coordinates": [] }),
        ] {
            assert!(check(&bad).is_err(), "{bad}");
        }
        assert_eq!(check(&json!({ "type": "MultiPoint", "coordinates": [[0, 0, 5.5]] })), Ok(()));
    }
}
