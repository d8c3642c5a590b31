package report

import (
	"cmp"
	"image/color"
	"io"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/weirstore/weir/bench/contender"
)

var colors = map[contender.Kind]color.Color{
	contender.Weir:  color.RGBA{0x1f, 0x77, 0xb4, 0xff},
	contender.Peer:  color.RGBA{0xff, 0x9f, 0x40, 0xff},
	contender.Buses: color.RGBA{0xd9, 0x6c, 0x5f, 0xff},
	contender.Logs:  color.RGBA{0x8c, 0x6b, 0xb1, 0xff},
	contender.Limit: color.RGBA{0xb0, 0xb0, 0xb0, 0xff},
}

// Rates draws a panel of bars for each work: events a second, on an axis that begins at zero. It
// writes SVG, or nothing if there is nothing to draw.
func Rates(out io.Writer, tables []Table) error {
	var panels []*plot.Plot
	most := 0
	for _, t := range tables {
		if t.Work.Growth != "" || len(t.Rows) == 0 {
			continue
		}
		panel, err := bars(t)
		if err != nil {
			return err
		}
		panels = append(panels, panel)
		most = max(most, len(t.Rows))
	}
	return drawPanels(out, panels, vg.Length(most)*14+60)
}

func bars(t Table) (*plot.Plot, error) {
	p := newPlot(t.Work.Title, "events a second")
	var names []string
	labels := plotter.XYLabels{}
	top := 0.0
	rows := slices.Clone(t.Rows)
	slices.Reverse(rows) // the first one is the highest
	for i, r := range rows {
		bar, err := plotter.NewBarChart(plotter.Values{r.Rate}, 10)
		if err != nil {
			return nil, err
		}
		bar.Horizontal, bar.XMin, bar.Color = true, float64(i), colors[r.Entry.Kind]
		bar.LineStyle.Width = 0
		p.Add(bar)
		names = append(names, padded(r.Entry.Name))
		labels.XYs = append(labels.XYs, plotter.XY{X: r.Rate, Y: float64(i)})
		text := count(r.Rate)
		if r.Failures > 0 {
			text = "failed"
		}
		labels.Labels = append(labels.Labels, text)
		top = max(top, r.Rate)
	}
	texts, err := plotter.NewLabels(labels)
	if err != nil {
		return nil, err
	}
	for i := range texts.TextStyle {
		texts.TextStyle[i].YAlign = draw.YCenter
		texts.TextStyle[i].Font.Size, texts.TextStyle[i].Font.Variant = 8, "Sans"
	}
	texts.Offset.X = 4
	p.Add(texts)
	p.NominalY(names...)
	p.X.Min, p.X.Max = 0, max(1, top*1.2) // room for the numbers
	p.Y.Min, p.Y.Max = -0.7, float64(len(rows))-0.3
	p.X.Tick.Marker = rateTicks{}
	return p, nil
}

// padded leaves room behind a name: it is placed by the width that it has in Liberation Sans, and a viewer
// that lacks this font takes a wider one.
func padded(name string) string { return name + strings.Repeat(" ", 2+len(name)/2) }

// rateTicks writes the marks of an axis of rates as the tables write rates.
type rateTicks struct{}

func (rateTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = cmp.Or(count(ticks[i].Value), "0")
		}
	}
	return ticks
}

// Growth draws a panel for each series: what an event costs, by how much there is.
func Growth(out io.Writer, tables []Table) error {
	var panels []*plot.Plot
	for _, series := range seriesOf(tables) {
		panel, err := lines(series, tables)
		if err != nil {
			return err
		}
		panels = append(panels, panel)
	}
	return drawPanels(out, panels, 260)
}

func seriesOf(tables []Table) []string {
	var all []string
	for _, t := range tables {
		if s := t.Work.Growth; s != "" && slices.ContainsFunc(t.Rows, drawn) && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// drawn says whether a row has a number.
func drawn(r Row) bool { return r.Failures == 0 && r.Rate > 0 }

func lines(series string, tables []Table) (*plot.Plot, error) {
	p := newPlot("what an event costs, by "+series, series)
	p.Y.Label.Text = "ns an event"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.LogTicks{Prec: -1}, plot.LogTicks{Prec: -1}
	var order []contender.Entry
	low, high := plotter.XY{X: math.Inf(1), Y: math.Inf(1)}, plotter.XY{}
	points := map[string]plotter.XYs{}
	for _, t := range tables {
		if t.Work.Growth != series {
			continue
		}
		for _, r := range t.Rows {
			if !drawn(r) {
				continue
			}
			if len(points[r.Entry.Name]) == 0 {
				order = append(order, r.Entry)
			}
			at := plotter.XY{X: t.Work.X, Y: r.NanosAnEvent}
			points[r.Entry.Name] = append(points[r.Entry.Name], at)
			low = plotter.XY{X: min(low.X, at.X), Y: min(low.Y, at.Y)}
			high = plotter.XY{X: max(high.X, at.X), Y: max(high.Y, at.Y)}
		}
	}
	for i, e := range order {
		line, dots, err := plotter.NewLinePoints(points[e.Name])
		if err != nil {
			return nil, err
		}
		line.Color, dots.Color = colors[e.Kind], colors[e.Kind]
		line.Width = 1.5
		dots.Shape = shapes[i%len(shapes)] // limits have one colour
		p.Add(line, dots)
		p.Legend.Add(e.Name, line, dots)
	}
	p.Legend.Top, p.Legend.Left = true, true
	// A logarithmic axis needs positive ends, with a power of ten between them.
	p.X.Min, p.X.Max = low.X, max(high.X, 10*low.X)
	p.Y.Min, p.Y.Max = low.Y/2, max(high.Y*4, low.Y*10) // room for the legend
	return p, nil
}

var shapes = []draw.GlyphDrawer{draw.CircleGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}, draw.CrossGlyph{}}

func newPlot(title, below string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = 9
	p.X.Label.Text = below
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font.Size = 8
		axis.Tick.Label.Font.Size = 8
	}
	p.Legend.TextStyle.Font.Size = 8
	for _, text := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		text.Font.Variant = "Sans"
	}
	return p
}

// drawPanels draws panels in two columns, each of the height given.
func drawPanels(out io.Writer, panels []*plot.Plot, height vg.Length) error {
	if len(panels) == 0 {
		return nil
	}
	const columns, width = 2, 430
	rows := (len(panels) + columns - 1) / columns
	grid := make([][]*plot.Plot, rows)
	for i := range grid {
		grid[i] = make([]*plot.Plot, columns)
	}
	for i, p := range panels {
		grid[i/columns][i%columns] = p
	}
	canvas := vgsvg.New(columns*width, vg.Length(rows)*height)
	dc := draw.New(canvas)
	dc.SetColor(color.White) // readable on a dark page too
	dc.Fill(dc.Rectangle.Path())
	tiles := draw.Tiles{Rows: rows, Cols: columns, PadX: 16, PadY: 12, PadTop: 8, PadBottom: 8, PadLeft: 8, PadRight: 8}
	for i, row := range plot.Align(grid, tiles, dc) {
		for j, c := range row {
			if grid[i][j] != nil {
				grid[i][j].Draw(c)
			}
		}
	}
	_, err := canvas.WriteTo(out)
	return err
}
