//! The colours of runs can be told apart with any kind of colour vision, and stand out from their background.

const SHEET: &str = include_str!("../assets/style.css");

type Color = [f64; 3];
type Matrix = [[f64; 3]; 3];

/// How light looks without red, green or blue cones (Machado, Oliveira and Fernandes 2009, severity 1).
const VISIONS: [(&str, Matrix); 4] = [
    (
        "all cones",
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    ),
    (
        "no red",
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
    ),
    (
        "no green",
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
    ),
    (
        "no blue",
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ),
];

#[test]
fn runs_can_be_told_apart() {
    let (light, dark) = SHEET.split_once("prefers-color-scheme: dark").unwrap();
    for (theme, part) in [("light", light), ("dark", dark)] {
        let ground = color(part, "--surface");
        let runs: Vec<Color> = (0..8).map(|n| color(part, &format!("--run-{n}"))).collect();
        for (n, run) in runs.iter().enumerate() {
            let contrast = contrast(*run, ground);
            assert!(contrast >= 3.0, "{theme} {n}: contrast {contrast:.2}");
            for (vision, matrix) in &VISIONS {
                for (m, other) in runs.iter().enumerate().take(n) {
                    let apart = distance(seen(*run, matrix), seen(*other, matrix));
                    assert!(apart >= 15.0, "{theme} {m} {n}, {vision}: {apart:.1}");
                }
            }
        }
    }
}

/// A colour of the sheet as amounts of light.
fn color(part: &str, name: &str) -> Color {
    let (_, rest) = part.split_once(&format!("{name}: #")).unwrap();
    [0, 2, 4].map(|at| {
        let value = u8::from_str_radix(&rest[at..at + 2], 16).unwrap();
        let value = f64::from(value) / 255.0;
        match value <= 0.04045 {
            true => value / 12.92,
            false => ((value + 0.055) / 1.055).powf(2.4),
        }
    })
}

fn times(matrix: &Matrix, color: Color) -> Color {
    matrix.map(|row| row.iter().zip(color).map(|(a, b)| a * b).sum())
}

fn seen(color: Color, vision: &Matrix) -> Color {
    times(vision, color).map(|light| light.clamp(0.0, 1.0))
}

fn contrast(a: Color, b: Color) -> f64 {
    let light = |[r, g, b]: Color| 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    (light(a) / light(b)).max(light(b) / light(a))
}

/// The distance in CIE L*a*b*; about 2 can just be seen side by side.
fn distance(a: Color, b: Color) -> f64 {
    let lab = |color: Color| {
        let to_xyz = [
            [0.4124, 0.3576, 0.1805],
            [0.2126, 0.7152, 0.0722],
            [0.0193, 0.1192, 0.9505],
        ];
        let [x, y, z] = times(&to_xyz, color);
        let [x, y, z] = [x / 0.9505, y, z / 1.089].map(|t| match t > 0.008856 {
            true => t.cbrt(),
            false => 7.787 * t + 16.0 / 116.0,
        });
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    };
    let squares = lab(a).into_iter().zip(lab(b)).map(|(a, b)| (a - b).powi(2));
    squares.sum::<f64>().sqrt()
}
