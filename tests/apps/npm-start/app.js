var express = require('express');
var path = require('path');
var logger = require('morgan');

var app = express();
app.set('views', path.join(__dirname, 'views'));
app.set('view engine', 'pug');
app.use(logger('dev'));
app.use(express.json());
app.use(express.urlencoded({ extended: false }));
app.use(express.static(path.join(__dirname, 'public')));
app.get('/', (req, res) => res.render('index', { title: 'Express', env: process.env.NODE_ENV }));
app.post('/users', (req, res) => res.status(201).location('/users/1').send(`user ${req.body.name}`));
app.get('/redirect', (req, res) => res.redirect('/elsewhere'));
app.get('/fails', () => {
  throw new Error('as planned');
});
module.exports = app;
