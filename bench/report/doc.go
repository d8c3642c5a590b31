// Package report makes of results a table in Markdown and charts in SVG.
package report
