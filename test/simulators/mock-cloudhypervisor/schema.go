package main

import (
	"fmt"
	"strconv"
	"strings"
)

// A checker of JSON against a schema that words its errors, and counts their columns, as serde_json
// does. It only refuses; values are then read with encoding/json. Unknown fields are accepted.

type schema struct {
	kind     string // struct, sequence, string, path, boolean, enum, mac, any, or an integer type such as u32
	name     string
	fields   map[string]*schema
	required []string
	element  *schema
	variants []string
}

type jsonError struct {
	message string
	offset  int
}

type checker struct {
	text string
	at   int
}

// checkJSON returns the error message as the server prints it, or "".
func checkJSON(text []byte, against *schema) string {
	c := &checker{text: string(text)}
	failure := c.value(against)
	if failure == nil {
		c.skipSpace()
		if c.at < len(c.text) {
			failure = &jsonError{"trailing characters", c.at + 1}
		}
	}
	if failure == nil {
		return ""
	}
	offset := failure.offset
	if offset > len(c.text) {
		offset = len(c.text)
	}
	before := c.text[:offset]
	line := strings.Count(before, "\n") + 1
	column := offset
	if last := strings.LastIndex(before, "\n"); last >= 0 {
		column = offset - last - 1
	}
	return fmt.Sprintf("%s at line %d column %d", failure.message, line, column)
}

func (c *checker) skipSpace() {
	for c.at < len(c.text) && strings.IndexByte(" \t\r\n", c.text[c.at]) >= 0 {
		c.at++
	}
}

func (c *checker) end(what string) *jsonError {
	return &jsonError{"EOF while parsing " + what, len(c.text)}
}

func (c *checker) value(s *schema) *jsonError {
	c.skipSpace()
	if c.at >= len(c.text) {
		return c.end("a value")
	}
	start := c.at
	switch first := c.text[c.at]; {
	case first == '{':
		if s.kind != "struct" && s.kind != "any" {
			return &jsonError{"invalid type: map, expected " + s.expected(), start}
		}
		return c.object(s)
	case first == '[':
		if s.kind != "sequence" && s.kind != "any" {
			return &jsonError{"invalid type: sequence, expected " + s.expected(), start}
		}
		return c.sequence(s)
	case first == '"':
		return c.stringValue(s)
	case first == '-' || (first >= '0' && first <= '9'):
		return c.number(s)
	default:
		return c.word(s)
	}
}

func (s *schema) expected() string {
	switch s.kind {
	case "struct":
		return "struct " + s.name
	case "sequence":
		return "a sequence"
	case "string", "mac":
		return "a string"
	case "path":
		return "path string"
	case "boolean":
		return "a boolean"
	case "enum":
		return "string or map"
	}
	return s.kind
}

func (c *checker) object(s *schema) *jsonError {
	c.at++
	seen := map[string]bool{}
	for first := true; ; first = false {
		c.skipSpace()
		if c.at >= len(c.text) {
			return c.end("an object")
		}
		if c.text[c.at] == '}' {
			c.at++
			for _, name := range s.required {
				if !seen[name] {
					return &jsonError{"missing field `" + name + "`", c.at}
				}
			}
			return nil
		}
		if !first {
			if c.text[c.at] != ',' {
				return &jsonError{"expected `,` or `}`", c.at + 1}
			}
			c.at++
			c.skipSpace()
			if c.at < len(c.text) && c.text[c.at] == '}' {
				return &jsonError{"trailing comma", c.at + 1}
			}
		}
		if c.at >= len(c.text) {
			return c.end("an object")
		}
		if c.text[c.at] != '"' {
			return &jsonError{"key must be a string", c.at + 1}
		}
		key, failure := c.string()
		if failure != nil {
			return failure
		}
		c.skipSpace()
		if c.at >= len(c.text) {
			return c.end("an object")
		}
		if c.text[c.at] != ':' {
			return &jsonError{"expected `:`", c.at + 1}
		}
		c.at++
		field := s.fields[key]
		if field == nil {
			field = anySchema
		}
		if seen[key] && s.fields[key] != nil {
			return &jsonError{"duplicate field `" + key + "`", c.at - 1}
		}
		seen[key] = true
		c.skipSpace()
		if !s.requires(key) && strings.HasPrefix(c.text[c.at:], "null") {
			field = anySchema
		}
		if failure := c.value(field); failure != nil {
			return failure
		}
	}
}

func (s *schema) requires(name string) bool {
	for _, required := range s.required {
		if required == name {
			return true
		}
	}
	return false
}

func (c *checker) sequence(s *schema) *jsonError {
	element := s.element
	if element == nil {
		element = anySchema
	}
	c.at++
	for first := true; ; first = false {
		c.skipSpace()
		if c.at >= len(c.text) {
			return c.end("a list")
		}
		if c.text[c.at] == ']' {
			c.at++
			return nil
		}
		if !first {
			if c.text[c.at] != ',' {
				return &jsonError{"expected `,` or `]`", c.at + 1}
			}
			c.at++
		}
		if failure := c.value(element); failure != nil {
			return failure
		}
	}
}

func (c *checker) string() (string, *jsonError) {
	start := c.at
	c.at++
	for c.at < len(c.text) {
		switch c.text[c.at] {
		case '\\':
			c.at++
		case '"':
			c.at++
			text, err := strconv.Unquote(c.text[start:c.at])
			if err != nil {
				text = c.text[start+1 : c.at-1]
			}
			return text, nil
		}
		c.at++
	}
	return "", c.end("a string")
}

func (c *checker) stringValue(s *schema) *jsonError {
	text, failure := c.string()
	if failure != nil {
		return failure
	}
	switch s.kind {
	case "string", "path", "any":
		return nil
	case "enum":
		for _, variant := range s.variants {
			if variant == text {
				return nil
			}
		}
		return &jsonError{"unknown variant `" + text + "`, expected one of `" + strings.Join(s.variants, "`, `") + "`", c.at + 1}
	case "mac":
		if isMAC(text) {
			return nil
		}
		return &jsonError{"The provided MAC address is invalid: parsing of " + text + " into a MAC address failed", c.at + 1}
	}
	return &jsonError{fmt.Sprintf("invalid type: string %q, expected %s", text, s.expected()), c.at}
}

func (c *checker) number(s *schema) *jsonError {
	start := c.at
	for c.at < len(c.text) && strings.IndexByte("+-.eE0123456789", c.text[c.at]) >= 0 {
		c.at++
	}
	text := c.text[start:c.at]
	isInteger := strings.Trim(text, "-0123456789") == ""
	kind := "integer"
	if !isInteger {
		kind = "floating point"
	}
	switch s.kind {
	case "any":
		return nil
	case "u8", "u16", "u32", "u64", "i64":
		if !isInteger {
			return &jsonError{fmt.Sprintf("invalid type: floating point `%s`, expected %s", text, s.kind), c.at}
		}
		bits, err := strconv.Atoi(s.kind[1:])
		if err != nil {
			panic(err)
		}
		if s.kind == "i64" {
			_, err = strconv.ParseInt(text, 10, bits)
		} else {
			_, err = strconv.ParseUint(text, 10, bits)
		}
		if err != nil {
			return &jsonError{fmt.Sprintf("invalid value: integer `%s`, expected %s", text, s.kind), c.at}
		}
		return nil
	}
	return &jsonError{fmt.Sprintf("invalid type: %s `%s`, expected %s", kind, text, s.expected()), c.at}
}

func (c *checker) word(s *schema) *jsonError {
	start := c.at
	for _, word := range []string{"true", "false", "null"} {
		if !strings.HasPrefix(c.text[c.at:], word) {
			continue
		}
		c.at += len(word)
		switch {
		case s.kind == "any" || (s.kind == "boolean" && word != "null"):
			return nil
		case word == "null":
			return &jsonError{"invalid type: null, expected " + s.expected(), c.at}
		default:
			return &jsonError{"invalid type: boolean `" + word + "`, expected " + s.expected(), c.at}
		}
	}
	return &jsonError{"expected value", start + 1}
}

func isMAC(text string) bool {
	parts := strings.Split(text, ":")
	if len(parts) != 6 {
		return false
	}
	for _, part := range parts {
		if len(part) != 2 {
			return false
		}
		if _, err := strconv.ParseUint(part, 16, 8); err != nil {
			return false
		}
	}
	return true
}
