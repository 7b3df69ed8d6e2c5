(component (core module {{repeat 100000: (type (func (param i32)))}}))
