package main

import (
	"fmt"
	"strconv"
	"strings"
)

// expression is a parsed target: a path of metrics, a call, a string or a number.
type expression interface{}

type (
	path string
	call struct {
		name      string
		arguments []expression
		source    string // as it was written
	}
	text   string
	number float64
)

// deepest bounds how far calls may be nested.
const deepest = 50

type parser struct {
	target string
	at     int
	depth  int
}

// parse reads a target such as `alias(sumSeries(a.{b,c}.*), "sum")`.
func parse(target string) (expression, error) {
	p := &parser{target: target}
	e, err := p.expression()
	if err == nil {
		if p.space(); p.at < len(p.target) {
			err = fmt.Errorf("%q is left over", p.target[p.at:])
		}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the target %q: %w", target, err)
	}
	return e, nil
}

func (p *parser) space() {
	for p.at < len(p.target) && strings.IndexByte(" \t\r\n", p.target[p.at]) >= 0 {
		p.at++
	}
}

func (p *parser) next(c byte) bool {
	p.space()
	if p.at < len(p.target) && p.target[p.at] == c {
		p.at++
		return true
	}
	return false
}

func (p *parser) expression() (expression, error) {
	p.space()
	begin := p.at
	if p.at < len(p.target) && strings.IndexByte(`"'`, p.target[p.at]) >= 0 {
		return p.quoted()
	}
	word := p.word()
	if word == "" {
		return nil, fmt.Errorf("a metric or a function is missing at character %d", p.at+1)
	}
	if p.next('(') {
		return p.call(word, begin)
	}
	if value, err := strconv.ParseFloat(word, 64); err == nil && strings.Trim(word, "+-.0123456789eE") == "" {
		return number(value), nil
	}
	return path(word), nil
}

// word takes all up to a bracket, a comma outside of braces, a quote or space.
func (p *parser) word() string {
	begin, braces := p.at, 0
	for ; p.at < len(p.target); p.at++ {
		switch c := p.target[p.at]; {
		case c == '{':
			braces++
		case c == '}':
			braces--
		case c == ',' && braces > 0:
		case strings.IndexByte("(),\"' \t\r\n", c) >= 0:
			return p.target[begin:p.at]
		}
	}
	return p.target[begin:]
}

func (p *parser) quoted() (expression, error) {
	end := strings.IndexByte(p.target[p.at+1:], p.target[p.at])
	if end < 0 {
		return nil, fmt.Errorf("the quote at character %d has no end", p.at+1)
	}
	value := p.target[p.at+1 : p.at+1+end]
	p.at += end + 2
	return text(value), nil
}

func (p *parser) call(name string, begin int) (expression, error) {
	if p.depth++; p.depth > deepest {
		return nil, fmt.Errorf("more than %d functions in each other", deepest)
	}
	defer func() { p.depth-- }()
	c := call{name: name}
	if !p.next(')') {
		for {
			argument, err := p.expression()
			if err != nil {
				return nil, err
			}
			c.arguments = append(c.arguments, argument)
			if p.next(')') {
				break
			}
			if !p.next(',') {
				return nil, fmt.Errorf("a , or ) is missing at character %d", p.at+1)
			}
		}
	}
	c.source = p.target[begin:p.at]
	return c, nil
}
