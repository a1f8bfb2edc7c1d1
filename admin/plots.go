package admin

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/matrixrelay/relay/activity"
)

// A plot is a chart of counts, drawn as one path. Each part of the time is one wide.
type plot struct {
	Title, Text string
	Path        string
	Width       int
	Height      int
	Kind        string // for its colour
}

const plotHeight = 24

// plotsOf are those of the last hour and of the last day.
func plotsOf(r *activity.Report) (plots []plot) {
	for _, span := range []struct {
		name   string
		series *activity.Series
	}{{"the last hour", &r.Hour}, {"the last day", &r.Day}} {
		sum := span.series.Sum()
		part := spanText(span.series.PartMS)
		draw := func(kind, title, total string, count func(*activity.Counts) int64) {
			p := plot{Title: title + " in " + span.name, Kind: kind, Width: len(span.series.Parts), Height: plotHeight, Text: "none"}
			var most int64
			if p.Path, most = bars(span.series.Parts, count); most > 0 {
				p.Text = fmt.Sprintf("%s, at most %d in %s", total, most, part)
			}
			plots = append(plots, p)
		}
		draw("stored", "Transactions stored", fmt.Sprintf("%d of %s", sum.Stored, sizeText(sum.StoredBytes)), func(c *activity.Counts) int64 { return c.Stored })
		draw("fetched", "Transactions fetched", strconv.FormatInt(sum.Acknowledged, 10), func(c *activity.Counts) int64 { return c.Acknowledged })
		draw("refused", "Requests refused", strconv.FormatInt(sum.Refused, 10), func(c *activity.Counts) int64 { return c.Refused })
	}
	return plots
}

// bars draws a bar for each count that isn't 0, the largest as high as the plot.
func bars(parts []activity.Counts, count func(*activity.Counts) int64) (path string, most int64) {
	for i := range parts {
		most = max(most, count(&parts[i]))
	}
	var d strings.Builder
	for i := range parts {
		if n := count(&parts[i]); n > 0 {
			height := max(float64(n)/float64(most)*plotHeight, 0.5) // so that a single one is seen
			fmt.Fprintf(&d, "M%d %dv-%.1fh1v%.1fz", i, plotHeight, height, height)
		}
	}
	return d.String(), most
}

// millisText writes microseconds for people.
func millisText(us int64) string { return fmt.Sprintf("%.1f ms", float64(us)/1000) }

// agoText says how long a time is over.
func agoText(t time.Time) string { return spanText(time.Since(t).Milliseconds()) + " ago" }
